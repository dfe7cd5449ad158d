"""Prints docs/weights.md: what each of open_clip's weights expects, by tag and by file. `make docs` writes it; a test
compares it with the open_clip that is installed."""

from collections.abc import Iterable
from importlib.metadata import version

import click

from clipmill.jobs.planning.models import Weights, by_file, by_tag

INTRO = """# What each model expects

Weights that are fed pictures resized, normalised or activated in another way than in their training give vectors that
are worse and look fine. This is what open_clip {version} says of each; `clipmill models` prints it of the one that
is installed, a line for a tag, with dimension and GFLOPs (`--json`: with the figures of mean and std). Beside that it
says how many parameters there are, the zero-shot accuracy on ImageNet that open_clip published of the weights, whether
the architecture was tried, and pictures a second by the arithmetic of `plan` (`--price 2.5`: dollars for a million, at
2.50 for a GPU-hour). `make docs` writes this page.

- **resize**: `shortest` resizes the shorter side to the pixels and cuts the middle out; `squash` resizes both sides
  and keeps no proportions. **mean, std** of RGB between 0 and 1: OpenAI's are 0.481, 0.458, 0.408 and 0.269, 0.261,
  0.276; ImageNet's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225.
- **activation**: open_clip builds a name with one and only warns when weights were trained with the other. clipmill
  refuses, and tells the name to use; only that is listed here. Image towers of timm (EVA, SigLIP, ConvNeXt…) have their
  own whatever stands here, and so have text towers of the Hugging Face Hub.
- **context**: tokens of a caption, begin and end among them; what is longer is cut. A tokenizer that is not open_clip's
  BPE is fetched from the Hugging Face Hub (`pip install 'clipmill[hf]'`). The BPE and those of SigLIP and CLIPA make
  texts lower case, and SigLIP's take punctuation away. The BPE reads HTML entities, twice over (`&amp;amp;` is `&`),
  and takes composed and decomposed accents for one; a zero-width space splits a word.
- What one would not guess: ViT-L-14 of laion2b_s32b_b82k is normalised by 0.5, unlike every other ViT-L-14 here;
  DFN's ViT-H-14 squash, MetaCLIP's do not; ViT-SO400M-14-SigLIP reads 16 tokens, its larger pictures 64; ViTamin-XL-384
  is given 256 pixels; ViT-H-14-worldwide is QuickGELU's at 224 pixels and not at 378.
- How far the vectors agree with reference open_clip: [models.md](models.md).
- open_clip's lists know no licences and no languages. `clipmill models` has those of weights whose card, or whose
  makers' page, was read (`license`, `languages`); schemas/models/cards.json says where each is from. A dash says
  nothing; before you rely on the others, read the page of the model: it may have changed.

## By tag

| model | pretrained | pixels | resize | mean, std | activation | context, tokenizer |
|---|---|---|---|---|---|---|
"""

BY_FILE = """
## By file

A checkpoint file (`pretrained: FILE`) says none of this. Where an `open_clip_config.json` lies beside it, that is
taken; where not, what all known tags of the architecture agree on. Where they disagree or there are none, the job file
is asked for `model.activation` or `model.preprocess` ([job-file.md](job-file.md)); `clipmill models --files` lists it
by name.
"""


def page() -> str:
    listed = [one for one in by_tag() if not one.use]
    alike: dict[tuple[object, ...], list[Weights]] = {}
    for one in listed:
        alike.setdefault((one.name, one.resize_mode, one.interpolation, one.mean, one.std), []).append(one)
    rows = "".join(map(_row, alike.values()))
    return INTRO.format(version=version("open_clip_torch")) + rows + BY_FILE + "".join(_files(by_file()))


def _row(alike: list[Weights]) -> str:
    """Tags of one name that expect the same, in the order of open_clip's list."""
    one = alike[0]
    cells = (
        one.name,
        ", ".join(weights.pretrained for weights in alike),
        "x".join(map(str, dict.fromkeys(one.pixels))),
        f"{one.resize_mode}, {one.interpolation}",
        one.mean_std,
        one.activation,
        f"{one.context_length}, {one.tokenizer}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def _files(found: Iterable[Weights]) -> Iterable[str]:
    kinds: dict[str, list[str]] = {}
    for one in found:
        asked = [word for word, said in (("activation", one.activation), ("preprocess", one.mean)) if said is None]
        kind = "as another name" if one.use else " and ".join(asked) or "nothing"
        kinds.setdefault(kind, []).append(one.name)
    titles = {
        "nothing": "nothing is asked",
        "activation": "`activation` is asked",
        "preprocess": "`preprocess` is asked",
        "activation and preprocess": "both are asked",
        "as another name": "refused under this name: all known weights are QuickGELU's, use `NAME-quickgelu`",
    }
    for kind, title in titles.items():
        yield f"\n**{title}** ({len(kinds[kind])}): {', '.join(kinds[kind])}\n"


if __name__ == "__main__":
    click.echo(page(), nl=False)
