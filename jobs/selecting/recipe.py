"""A recipe file: YAML in, a frozen `Recipe` out, and every mistake in it as one sentence that names the step."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from clipmill import schemas
from clipmill.jobs.planning.jobfile_errors import choices, shown, wanted
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.recipe import OPERATORS, Operator, Recipe, Step
from clipmill.schemas.job.strict_yaml import Lines, load_yaml
from clipmill.schemas.text.secrets import CHAIN_HINT, secret_in

MAX_BYTES = 1_000_000
MAX_STEPS = 100
KEYS = ("name", "description", "steps")
EXAMPLES = {
    "where": "where: \"license = 'cc0'\"",
    "size": "size: {min_side: 200, max_aspect: 3}",
    "tags": "tags: {any: [dog, cat], none: [person]}",
    "caption": "caption: {min_words: 3, min_chars: 6, language: en}",
    "score": "score: {column: caption_score, top: 0.3}",
    "near": "near: {words: a photo of a dog, at_least: 0.2}",
    "mirror": "mirror: {top: 0.5}",
    "duplicates": "duplicates: {threshold: 0.95, keep: largest}",
    "per_cluster": "per_cluster: {clusters: 100, at_most: 50, order_by: caption_score}",
    "diverse": "diverse: {n: 1000, seed: 0}",
    "sample": "sample: {share: 0.1, seed: 0}",
}


def shipped() -> dict[str, Path]:
    """The recipes that come with clipmill, by name."""
    folder = Path(str(schemas.__file__)).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe that comes with clipmill, by name, or one from a YAML file. Raises UserError."""
    name = str(name_or_path)
    if name in (found := shipped()):
        return parse_recipe(found[name].read_text("utf-8"), where=f"recipe '{name}'", name=name)
    if Path(name).suffix.lower() not in (".yaml", ".yml"):
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"there is no recipe '{name}'",
            f"{hint}`clipmill select --list` names those that come with clipmill; any other is a file that ends in "
            ".yaml",
        )
    try:
        return parse_recipe(_read(name).decode("utf-8-sig"), where=name, name=Path(name).stem)
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8 text", "save the file as UTF-8") from None


def _read(name: str) -> bytes:
    if "://" in name:
        from clipmill.workers.store.storage import get_bytes

        raw: bytes = get_bytes(name, Storage(), max_bytes=MAX_BYTES)
        return raw
    try:
        with open(name, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"the recipe {name} cannot be read: {error.strerror}", "check the path") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES:,} bytes, which no recipe is", "is it the right file?")
    return raw


def recipe_of(given: Any) -> Recipe:
    """What Python hands over: a Recipe, a name or a path, or the steps as lists and mappings. Raises UserError."""
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str | Path):
        return load_recipe(given)
    if isinstance(given, Mapping) or (isinstance(given, Sequence) and not isinstance(given, bytes)):
        try:
            text = json.dumps(given, indent=1, ensure_ascii=False)
        except (TypeError, ValueError):
            raise UserError("the recipe holds what is no plain value", "texts, numbers, lists and mappings") from None
        return parse_recipe(text, where="the recipe", name="recipe")  # JSON is YAML
    raise UserError(f"a recipe is a {type(given).__name__}", "give a name, a path, or a list of steps")


def parse_recipe(text: str, *, where: str, name: str) -> Recipe:
    """`where`: the file, for messages. `name`: used where the file gives none. Raises UserError, with line and step."""
    if what := secret_in(text):
        raise UserError(f"{where} carries {what}", CHAIN_HINT)  # the card has the whole text
    data, lines = load_yaml(text, where)
    if isinstance(data, list):
        data, lines = {"steps": data}, {("steps", *path): line for path, line in lines.items()}
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a recipe: it holds no keys", f"start it with `steps:` and `- {_AN_EXAMPLE}`")
    for key in data:
        if key not in KEYS:
            near = difflib.get_close_matches(key, (*KEYS, *OPERATORS), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys of a recipe are {', '.join(KEYS)}"
            if key in OPERATORS:
                hint = f"a step goes under `steps:`, such as `- {EXAMPLES[key]}`"
            raise UserError(f"{_at(where, lines, (key,))}: '{key}' is not a known key", hint)
    for key in ("name", "description"):
        if not isinstance(data.get(key, ""), str) or not data.get(key, name):
            raise UserError(f"{_at(where, lines, (key,))}: '{key}' must be text", f"write it like `{key}: my set`")
    steps = data.get("steps")
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{where} has no steps", f"`steps:` is a list, such as `- {_AN_EXAMPLE}`")
    if len(steps) > MAX_STEPS:
        raise UserError(f"{where} has {len(steps)} steps", f"at most {MAX_STEPS} are taken")
    return Recipe(
        name=data.get("name", name),
        description=" ".join(data.get("description", "").split()),
        steps=tuple(_step(place, step, where, lines) for place, step in enumerate(steps)),
        where=where,
        text=text,
        hash=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
    )


_AN_EXAMPLE = EXAMPLES["score"]


def _at(where: str, lines: Lines, path: tuple[str | int, ...]) -> str:
    return f"{where}, line {lines[path]}" if path in lines else where


def _step(place: int, step: Any, where: str, lines: Lines) -> Step:
    at = f"{_at(where, lines, ('steps', place))}, step {place + 1}"
    if not isinstance(step, dict) or len(step) != 1:
        has = f"has {len(step)} operators" if isinstance(step, dict) else f"is {shown(step)}"
        raise UserError(f"{at} {has}; each has one", f"write it like `- {_AN_EXAMPLE}`")
    ((operator, value),) = step.items()
    if operator not in OPERATORS:
        near = difflib.get_close_matches(operator, OPERATORS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(OPERATORS)}"
        raise UserError(f"{at}: '{operator}' is no operator", hint)
    given = {"sql": value} if operator == "where" and not isinstance(value, dict) else value
    if not isinstance(given, dict):
        raise UserError(
            f"{at} ({operator}): must be a section of keys and values, not {shown(value)}",
            f"write it like `- {EXAMPLES[operator]}`",
        )
    try:
        asked = OPERATORS[operator].model_validate(given)
    except ValidationError as error:
        path = ("steps", place, operator)
        raise _explained(error, operator, (where, lines, path), f"step {place + 1} ({operator})") from None
    said = json.dumps(value, ensure_ascii=False)
    return Step(
        number=place + 1,
        operator=operator,
        asked=cast(Operator, asked),
        said=f"{operator}: {said}",
        line=lines.get(("steps", place)),
    )


def _explained(
    error: ValidationError, operator: str, place: tuple[str, Lines, tuple[str | int, ...]], step: str
) -> UserError:
    """The first mistake of a step."""
    found = error.errors(include_url=False)
    first = found[0]
    where, lines, path = place
    key = str(first["loc"][0]) if first["loc"] else ""
    at = f"{_at(where, lines, (*path, key) if (*path, key) in lines else path[:-1])}, {step}"
    known = list(OPERATORS[operator].model_fields)
    example = f"write it like `- {EXAMPLES[operator]}`"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"the keys of {operator} are {', '.join(known)}"
        return UserError(f"{at}: '{key}' is not a known key", hint)
    if first["type"] == "missing":
        return UserError(f"{at}: '{key}' is missing", example)
    if first["type"] == "value_error":
        return UserError(f"{at}: {first['msg'].removeprefix('Value error, ')}", example)
    kinds = " or ".join(dict.fromkeys(wanted(one) for one in found if one["loc"][:1] == first["loc"][:1]))
    near = difflib.get_close_matches(str(first["input"]), [one for d in found for one in choices(d)], n=1)
    hint = f"did you mean `{key}: {near[0]}`?" if near else example
    if operator == "where":
        key = "where"
    return UserError(f"{at}: '{key}' must be {kinds}, not {shown(first['input'])}", hint)
