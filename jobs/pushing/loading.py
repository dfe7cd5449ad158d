"""The part of a card that says how the data set is loaded and searched, as programs that run when they are copied."""

import json
import shlex

from clipmill.jobs.pushing.facts import Facts
from clipmill.jobs.table.tables import TOLD_BY
from clipmill.schemas.model import Fingerprint

_FILES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz")


def loading(facts: Facts, repo: str) -> str:
    """`repo`: empty for a folder, which is then to be given by its path."""
    name = repo.rpartition("/")[2] or facts.name
    parts = ["## How to load it", _python(_load(facts, repo, name))]
    column = "vector" if "vector" in facts.models else next(iter(facts.models), None)
    if column:
        parts += ["## How to search it"]
        if _is_of_open_clip(facts.models[column]):
            parts += [f"By the cosine of `{column}` with the embedding of some words:"]
            parts += [_python(_words(facts.models[column]) + _search(facts, column))]
        parts += ["With clipmill, which loads that model:", _shell(_clipmill(facts, repo, name, column))]
    return "\n\n".join(parts)


def _load(facts: Facts, repo: str, name: str) -> list[str]:
    where = repo or f"path/to/{name}"
    rows = "loaded" if facts.form == "lance" else "rows"
    lines = ["from datasets import load_dataset", "", f'{rows} = load_dataset("{where}", split="train")']
    if "thumbnail" in dict(facts.columns):
        lines[0] = "from datasets import Image, load_dataset"
        lines += [f'{rows} = {rows}.cast_column("thumbnail", Image())']
    if facts.rejects:
        lines += [f'rejects = load_dataset("{where}", "rejects", split="train")']
    if facts.form == "lance":
        place = f"hf://datasets/{repo}" if repo else where
        lines = ["import lance", "", f'rows = lance.dataset("{place}/data/train.lance")', "", "# or:", *lines]
    return lines


def _words(fingerprint: Fingerprint) -> list[str]:
    model = json.dumps(fingerprint.model)
    weights = f", pretrained={json.dumps(fingerprint.pretrained)}" if fingerprint.pretrained else ""
    return [
        "import numpy as np",
        "import open_clip",
        "import torch",
        "",
        f"model, _, _ = open_clip.create_model_and_transforms({model}{weights})",
        f"tokenizer = open_clip.get_tokenizer({model})",
        "with torch.no_grad():",
        '    words_D = model.eval().encode_text(tokenizer(["a red shoe"]))[0].numpy()',
        "words_D /= np.linalg.norm(words_D)",
        "",
    ]


def _is_of_open_clip(fingerprint: Fingerprint) -> bool:
    """As far as its name tells: a file is none, nor is clipmill's own."""
    if fingerprint.model.startswith(("hf-hub:", "local-dir:")):
        return fingerprint.model.startswith("hf-hub:")
    return bool(fingerprint.pretrained) and not fingerprint.pretrained.endswith(_FILES)


def _search(facts: Facts, column: str) -> list[str]:
    shown = [name for name in ("id", "uri", "caption") if name in dict(facts.columns)]
    if facts.form == "lance":
        near = f'{{"column": "{column}", "q": words_D, "k": 10, "metric": "cosine"}}'
        shown_text = ", ".join(f'"{name}"' for name in (*shown, "_distance"))
        return [f"best = rows.to_table(columns=[{shown_text}], nearest={near})"]
    return [
        'table = rows.with_format("arrow")[:]',
        f'table = table.filter(table["{column}"].is_valid())',
        f'vectors_N = table["{column}"].combine_chunks().flatten().to_numpy().astype("float32")',
        "scores_N = vectors_N.reshape(len(table), -1) @ words_D",
        f"best = table.select({shown}).take(scores_N.argsort()[::-1][:10])".replace("'", '"'),
    ]


def _clipmill(facts: Facts, repo: str, name: str, column: str) -> list[str]:
    lines = [f"hf download {repo} --repo-type dataset --local-dir {name}"] if repo else []
    if facts.form == "lance" and {*TOLD_BY} <= dict(facts.columns).keys():
        return [*lines, f'clipmill search {name}/data/train "a red shoe"']
    model = facts.models[column]
    files = f"{name}/data/train.lance" if facts.form == "lance" else f"'{name}/data/*.parquet'"
    taken = f"clipmill import {files} --to db/{name} --model {shlex.quote(model.model)}"
    if model.pretrained:
        taken += f" --pretrained {shlex.quote(model.pretrained)}"
    if column != "vector":
        taken += f" --vector {column}"
    if "id" not in dict(facts.columns):
        taken += " --id '#row'"
    return [*lines, taken, f'clipmill search db/{name} "a red shoe"']


def _python(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _shell(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])
