"""What the weights that open_clip knows expect: of pictures, of texts, of the activation. `clipmill models` and
docs/weights.md print it. From open_clip's own lists, without torch, weights or a network."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from clipmill import schemas
from clipmill.jobs.planning.arithmetic import model_cost
from clipmill.jobs.planning.estimate import Worker, core_kind, rate
from clipmill.schemas.errors import UserError
from clipmill.workers.naming import catalog, said
from clipmill.workers.naming.names import CONFIG, MODELS, TINY, read_config

# Where an entry leaves a key out; those of open_clip's `PreprocessCfg` and `get_tokenizer`, with which a test compares.
_DEFAULTS: Mapping[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_CONTEXT = 77
OWN_LICENSE = "apache-2.0"  # of clipmill itself, and so of the weights that it carries
_CALLED: Mapping[tuple[float, ...], str] = {
    (0.48145466, 0.4578275, 0.40821073, 0.26862954, 0.26130258, 0.27577711): "OpenAI's",
    (0.485, 0.456, 0.406, 0.229, 0.224, 0.225): "ImageNet's",
    (0.5,) * 6: "0.5, 0.5",
    (0.0, 0.0, 0.0, 1.0, 1.0, 1.0): "0, 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One architecture with one of its pretrained tags, or with a checkpoint file (`pretrained` is empty).

    `pixels`: height and width of the input. `dim`: of the shared space. `gflops`: of one picture's tower, 2 per
    multiply-add; by `arithmetic`, else as open_clip publishes it, else None. `mean`, `std`: of RGB between 0 and 1.
    `activation`: gelu or quickgelu. `use`: the name to use instead, because `name` is built with the other activation.
    With a file None stands where nothing says it, and the job file is asked.

    `millions`: of parameters, both towers. `tried`: the precision in which the architecture agreed with reference
    open_clip (docs/models.md); None where it was not tried. `imagenet`: zero-shot accuracy on ImageNet, as open_clip
    publishes it of these weights. `pictures_per_s`: of one worker by `clipmill plan`'s arithmetic, without captions.
    `license`, `languages`: as their card or their makers say, with the source in schemas/models/cards.json; None where
    nobody read it. `languages`: English, many, or how many.
    """

    name: str
    pretrained: str
    dim: int
    pixels: tuple[int, int]
    gflops: float | None
    resize_mode: str | None
    interpolation: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    activation: str | None
    tokenizer: str
    context_length: int
    use: str = ""
    millions: float | None = None
    tried: str | None = None
    imagenet: float | None = None
    pictures_per_s: float | None = None
    license: str | None = None
    languages: str | None = None

    def dollars_per_million(self, price: float) -> float | None:
        """Of pictures, at `price` dollars an hour for such a worker."""
        return None if not self.pictures_per_s else round(price * 1e6 / self.pictures_per_s / 3600, 2)

    @property
    def mean_std(self) -> str | None:
        """In a word where there is one."""
        if self.mean is None or self.std is None:
            return None
        return (
            _CALLED.get((*self.mean, *self.std)) or f"{', '.join(map(str, self.mean))}; {', '.join(map(str, self.std))}"
        )


def by_tag(word: str = "", *, gpu: bool = False) -> list[Weights]:
    """All that open_clip has a tag for, and clipmill-tiny; with `word` those with it in `name/pretrained`. `gpu`: the
    rates are those of a GPU, also where this machine has none."""
    return _asked([_tiny(), *(one for name in catalog.architectures() for one in _tags(name))], word, gpu)


def by_file(word: str = "", *, gpu: bool = False) -> list[Weights]:
    """What a checkpoint file of each architecture is taken for that has no open_clip_config.json beside it."""
    return _asked([_file(name) for name in catalog.architectures()], word, gpu)


def _asked(found: list[Weights], word: str, gpu: bool) -> list[Weights]:
    kept = [one for one in found if word.lower().replace("/", "-") in f"{one.name}-{one.pretrained}".lower()]
    if not kept:
        raise UserError(f"no model has '{word}' in its name", "`clipmill models` without a word lists all of them")
    worker = Worker.here(gpu=gpu)
    return [_with_figures(one, worker) for one in kept]


def _with_figures(one: Weights, worker: Worker) -> Weights:
    built = one.use or one.name
    entry = _known()["architectures"].get(built) or _known()["architectures"].get(one.name) or {}
    published = _known()["imagenet"]
    plain = built.removesuffix("-quickgelu")
    gflops = one.gflops if one.gflops is not None else entry.get("gflops")
    return replace(
        one,
        gflops=gflops,
        millions=entry.get("millions"),
        tried=entry.get("tried"),
        imagenet=published.get(f"{built}/{one.pretrained}", published.get(f"{plain}/{one.pretrained}")),
        pictures_per_s=None if gflops is None else rate(gflops * 1e9, worker, core_kind(entry.get("tried") or "auto")),
    )


@cache
def _known() -> Any:
    """By `benchmarks.known_models`."""
    return _read("known.json")


@cache
def cards() -> Any:
    """What is said of weights by their cards: `sources` by name, `repositories` by what open_clip fetches from."""
    return _read("cards.json")


def _read(name: str) -> Any:
    return json.loads((Path(str(schemas.__file__)).parent / "models" / name).read_text("utf-8"))


def _said_on_cards(entry: Mapping[str, Any]) -> dict[str, str]:
    """`license` and `languages` of the weights of an entry of open_clip's list, as far as they are known."""
    repository = "/".join(str(entry.get("hf_hub") or "").split("/")[:2])
    return {key: one["value"] for key, one in cards()["repositories"].get(repository, {}).items()}


def license_of(name: str, pretrained: str) -> str:
    """Of the weights, by their card; empty where nobody here read one, and where there is no open_clip to ask."""
    if name == TINY:
        return OWN_LICENSE
    try:
        entry = catalog.tags(name).get(pretrained)
    except UserError:
        return ""
    return _said_on_cards(entry).get("license", "") if entry else ""


def _tags(name: str) -> Iterator[Weights]:
    for tag, entry in catalog.tags(name).items():
        one = _weights(name, tag, quick=said.trained_quick(name, entry), entry=entry)
        yield replace(one, **_said_on_cards(entry))  # type: ignore[arg-type]


def _file(name: str) -> Weights:
    quick, prepared = said.of_bare_file(name)
    return _weights(name, "", quick=quick, entry=None if prepared is None else prepared.preprocess)


def _tiny() -> Weights:
    path = MODELS / TINY / CONFIG
    config, entry = read_config(path), json.loads(path.read_text("utf-8")).get("preprocess_cfg", {})
    return Weights(
        name=TINY,
        license=OWN_LICENSE,
        pretrained="",
        activation="quickgelu" if config.get("quick_gelu") else "gelu",
        **_of_config(TINY, config),
        **_preprocess(entry),
    )


def _weights(name: str, pretrained: str, *, quick: bool | None, entry: Mapping[str, Any] | None) -> Weights:
    config = catalog.config(name)
    assert config is not None, "a name of open_clip's list"
    return Weights(
        name=name,
        pretrained=pretrained,
        activation=None if quick is None else "quickgelu" if quick else "gelu",
        use=said.with_activation(name, quick=quick) if quick is not None and quick != said.is_quick(name) else "",
        **_of_config(name, config),
        **_preprocess(entry),
    )


def _preprocess(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    if entry is None:
        return dict.fromkeys(_DEFAULTS)
    found = {key: value if entry.get(key) is None else entry[key] for key, value in _DEFAULTS.items()}
    return found | {key: tuple(map(float, found[key])) for key in ("mean", "std")}


def _of_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    size, text, cost = config["vision_cfg"].get("image_size", 224), config["text_cfg"], model_cost(name)
    return {
        "dim": int(config["embed_dim"]),
        "pixels": (size, size) if isinstance(size, int) else tuple(size),
        "gflops": None if cost is None else round(cost.image_flops / 1e9, 1),
        "tokenizer": text.get("hf_tokenizer_name") or "open_clip's BPE",
        "context_length": int(text.get("context_length", _CONTEXT)),
    }
