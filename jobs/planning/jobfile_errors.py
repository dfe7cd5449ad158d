"""Turns pydantic's findings about a job file into one sentence and a hint."""

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.strict_yaml import Lines

Path = tuple[str | int, ...]

# What a right value looks like, for the keys where the default does not show it.
_EXAMPLES = {
    "table": "s3://lake/db/images",
    "source.format": "webdataset",
    "source.uri": "s3://lake/raw/*.tar",
    "source.image": "jpg",
    "source.caption": "txt",
    "source.keep": "{license: string}",
    "source.id": "uri",
    "source.orientation": "json:exif",
    "model": "{name: ViT-B-32, pretrained: laion2b_s34b_b79k}",
    "model.name": "ViT-B-32",
    "model.pretrained": "laion2b_s34b_b79k",
    "model.preprocess": "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], interpolation: bicubic, resize_mode: shortest}",
    "tags": "{vocabulary: coco, top_k: 5}",
    "tags.vocabulary": "coco",
    "heads": "{aesthetic: sa_0_4_vit_b_32_linear.pth}",
    "workers": "{num: auto, gpus: 1}",
    "storage": "{region: eu-central-1}",
    "storage.endpoint_url": "http://localhost:9000",
    "storage.region": "eu-central-1",
    "storage.anonymous": "true",
    "storage.requester_pays": "true",
    "storage.addressing": "path",
    "limits": "{max_image_bytes: 50MB}",
    "limits.max_image_bytes": "50MB",
    "limits.max_pixels": "100M",
    "limits.worker_memory": "4GB",
    "commit": "{every_rows: 50000}",
    "plan": "{price_per_gpu_hour: 2.5}",
    "plan.price_per_gpu_hour": "2.5",
    "nightly": "{gone: keep}",
    "nightly.golden": "s3://lake/golden.csv",
    "nightly.watch": "{red shoes: {text: a red shoe, min_score: 0.25}}",
    "nightly.webhook": "env:CLIPMILL_WEBHOOK",
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "text or a list of texts",
    "list": "text or a list of texts",
    "dict": "a section of keys and values",
    "mapping": "a section of keys and values",
    "model": "a section of keys and values",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: ValidationError, data: Any, lines: Lines, name: str) -> UserError:
    """The first mistake as a UserError, with a count of the others. `data` and `lines` are the file as read."""
    by_path: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_real_path(details, data), []).append(details)
    # In the order of the file; what is missing has no line and comes last.
    ordered = sorted(by_path.items(), key=lambda item: lines.get(item[0], 10**9))
    path, found = ordered[0]
    message, hint = _sentence(path, found)
    line = lines.get(path)
    where = f"{name}, line {line}" if line else name
    others = len(ordered) - 1
    more = f" (and {others} more mistake{'s' if others > 1 else ''})" if others else ""
    return UserError(f"{where}: {message}{more}", hint)


def _real_path(details: ErrorDetails, data: Any) -> Path:
    """Pydantic's location without the branches of a union and other steps that are not in the file."""
    path: list[str | int] = []
    last = len(details["loc"]) - 1
    for index, part in enumerate(details["loc"]):
        if isinstance(data, dict):
            absent = index == last and details["type"] == "missing"
            if not absent and part not in data:
                break
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
        else:
            break
    return tuple(path)


def _sentence(path: Path, found: list[ErrorDetails]) -> tuple[str, str]:
    """Message and hint for the errors that one key got (several where its type is a union)."""
    dotted, first = ".".join(map(str, path)), found[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return f"'{dotted}' is missing", f"add `{_example(path) or f'{path[-1]}: ...'}`"
    if kind == "value_error":
        reason = first["msg"].removeprefix("Value error, ")
        joined = f"'{dotted}' {reason}" if reason.startswith("must ") else f"'{dotted}': {reason}"
        return joined, f"write it like `{_example(path)}`" if _example(path) else "see docs/job-file.md"
    if kind == "too_short":
        return f"'{dotted}' is an empty list", f"write it like `{_example(path)}`"
    kinds = " or ".join(dict.fromkeys(wanted(details) for details in found))
    value = first["input"]
    message = f"'{dotted}' must be {kinds}, not {shown(value)}"
    known = [choice for details in found for choice in choices(details)]
    near = difflib.get_close_matches(str(value), known, n=1)
    if near:
        return message, f"did you mean `{path[-1]}: {near[0]}`?"
    if isinstance(value, bool) and any(details["type"].startswith("string") for details in found):
        return (
            message,
            f'YAML reads bare yes, no, on and off as true or false; put the word in quotes: `{path[-1]}: "no"`',
        )
    if value is None:
        return message, f"give `{_example(path)}`, or remove the line to use the default"
    return message, f"write it like `{_example(path)}`" if _example(path) else "see docs/job-file.md"


def wanted(details: ErrorDetails) -> str:
    """What a right value is, in words."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return "one of " + ", ".join(choices(details)) if len(choices(details)) > 1 else choices(details)[0]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {context[key]:g}"
    return _TYPES.get(kind.split("_")[0], details["msg"].lower())


def choices(details: ErrorDetails) -> list[str]:
    """The words that are taken, where it is one of some."""
    if details["type"] != "literal_error":
        return []
    expected = str(details.get("ctx", {}).get("expected", ""))
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def shown(value: Any) -> str:
    """A value of the file as a message has it, on one line and short."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"


def _unknown_key(path: Path) -> tuple[str, str]:
    section, key = path[:-1], str(path[-1])
    known = _keys(section)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    elsewhere = [p for p in _all_keys() if p[-1] == key]
    owner = f"'{'.'.join(map(str, section))}'" if section else "a job file"
    if near:
        hint = f"did you mean `{near[0]}`?"
    elif elsewhere:
        hint = (
            f"it belongs under `{'.'.join(elsewhere[0][:-1])}:`" if len(elsewhere[0]) > 1 else "it belongs at the top"
        )
    else:
        # The nearest known key anywhere, where this section has none that is near.
        leaves = {p[-1]: p for p in _all_keys()}
        far = difflib.get_close_matches(key, list(leaves), n=1, cutoff=0.7)
        hint = f"did you mean `{'.'.join(leaves[far[0]])}`?" if far else f"the keys of {owner} are {', '.join(known)}"
    return f"'{'.'.join(map(str, path))}' is not a known key", hint


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation: the class itself, or the value type of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in typing.get_args(annotation) if (model := _submodel(arg))), None)


def _keys(section: Iterable[str | int]) -> list[str]:
    model: type[BaseModel] = JobFile
    for part in section:
        for name, field in model.model_fields.items():
            if part in (name, field.alias) and (inner := _submodel(field.annotation)):
                model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _all_keys() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, field in JobFile.model_fields.items():
        found.append((name,))
        inner = _submodel(field.annotation)
        if inner:
            found += [(name, sub.alias or key) for key, sub in inner.model_fields.items()]
    return found


def _example(path: Path) -> str:
    """`key: value` as the file would hold it: from the examples above, else the default; empty if neither shows."""
    if path[:2] == ("source", "keep") or isinstance(path[-1], int):
        path = path[:2] if path[0] == "source" else path[:-1]
    dotted = ".".join(map(str, path))
    if dotted in _EXAMPLES:
        return f"{path[-1]}: {_EXAMPLES[dotted]}"
    if len(path) == 1 and path[0] in JobFile.model_fields:
        default = JobFile.model_fields[str(path[0])].default
        return f"{path[0]}: {str(default).lower()}" if isinstance(default, bool) else ""
    if len(path) == 2 and (inner := _submodel(JobFile.model_fields[str(path[0])].annotation)):
        field = inner.model_fields.get(str(path[1]))
        if field is not None and isinstance(field.default, str | int | float):
            return f"{path[1]}: {field.default}"
    return ""
