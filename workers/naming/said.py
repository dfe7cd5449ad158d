"""What a checkpoint file does not say of itself: how its pictures are prepared, and with which activation it computes.

An open_clip architecture has one shape for weights of several trainings, whose means, resizing and activation differ.
Weights that are fed with another's give vectors that are worse and look fine. So they are taken, in this order, from
the job file, from an open_clip_config.json beside the file, or from what the known tags of the architecture agree on;
where those disagree, or none is known, the user is asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec
from clipmill.workers.naming import catalog as model_catalog

CONFIG = "open_clip_config.json"
KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size")
_WRITE = "`preprocess: {mean: [R, G, B], std: [R, G, B], interpolation: bicubic, resize_mode: shortest}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`preprocess`: some of KEYS, as open_clip's create_model takes them. `origin` goes into the fingerprint."""

    preprocess: Mapping[str, Any]
    origin: str


def of_tag(tag: str, entry: Mapping[str, Any]) -> Said:
    return Said(preprocess=_only(entry), origin=f"tag {tag}")


def of_random(name: str) -> Said:
    """For weights that were not trained any preprocessing is right; that of the known tags makes timings comparable."""
    entries = list(model_catalog.tags(name).values())
    agreed = bool(entries) and len({_text(entry) for entry in entries}) == 1
    return Said(
        preprocess=_only(entries[0]) if agreed else {},
        origin="what the known tags agree on" if agreed else "open_clip's default",
    )


def of_file(name: str, path: Path, spec: ModelSpec) -> Said:
    """Raises UserError where nothing says it, and where the activation is not the one that `name` is built with."""
    tags = model_catalog.tags(name)
    beside = _beside(path)
    like = spec.preprocess.get("like")
    if like is not None:
        entry = {**model_catalog.tags(name.removesuffix("-quickgelu")), **tags}.get(like)
        if entry is None:
            raise UserError(
                f"'{like}', of which model.preprocess is to be taken, is no pretrained tag of {name}",
                f"its tags are {', '.join(tags)}" if tags else f"none is known; write {_WRITE} under model",
            )
        tags = {like: entry}
    quick, alike = _alike(name, spec, beside if like is None else None, tags)
    said = _said(spec, beside, alike)
    if quick is None or said is None:
        raise _question(name, path, alike, asks_activation=quick is None, asks_preprocess=said is None)
    if quick != is_quick(name):
        error = other_activation(name, f"the weights in {path}", quick=quick)
        if spec.activation is None and beside is None and like is None:
            error = UserError(
                f"all known weights of {name} were trained with{'' if quick else 'out'} QuickGELU, and {name} is built "
                f"with{'out' if quick else ''} it",
                f"{error.hint}; if those in {path} are others, set `activation: {'gelu' if quick else 'quickgelu'}`",
            )
        raise error
    return said


def of_bare_file(name: str) -> tuple[bool | None, Said | None]:
    """What a file of this architecture is taken for that has nothing beside it, where the job file says nothing either:
    whether it computes with QuickGELU, and how its pictures are prepared; None each where `of_file` asks."""
    spec = ModelSpec(name=name)
    quick, alike = _alike(name, spec, None, model_catalog.tags(name))
    return quick, _said(spec, None, alike)


def other_activation(name: str, weights: str, *, quick: bool) -> UserError:
    """open_clip only warns of weights that were trained with the other activation, and the vectors come out worse."""
    other = with_activation(name, quick=quick)
    known = other in model_catalog.architectures()
    return UserError(
        f"{weights} were trained with{'' if quick else 'out'} QuickGELU and {name} is built with"
        f"{'out' if quick else ''} it",
        f"use `name: {other}`" if known else "use a model folder that says so",
    )


def with_activation(name: str, *, quick: bool) -> str:
    """What the architecture is called that is built with QuickGELU, or without; open_clip may not know it."""
    return f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")


def trained_quick(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a tag's weights were trained with QuickGELU. open_clip's table leaves it out for an architecture that is
    built with it under its only name (roberta-ViT-B-32)."""
    only_name = is_quick(name) and not name.endswith("-quickgelu")
    return bool(entry.get("quick_gelu", only_name))


def is_quick(name: str) -> bool:
    return bool((model_catalog.config(name) or {}).get("quick_gelu", False))


def _alike(
    name: str, spec: ModelSpec, beside: Mapping[str, Any] | None, tags: Mapping[str, Mapping[str, Any]]
) -> tuple[bool | None, Mapping[str, Mapping[str, Any]]]:
    """The activation, None where nothing says it, and the tags that were trained with it, or all where none was."""
    quick = _quick_gelu(name, spec, beside, tags)
    return quick, {tag: entry for tag, entry in tags.items() if quick in (None, trained_quick(name, entry))} or tags


def _said(spec: ModelSpec, beside: Mapping[str, Any] | None, tags: Mapping[str, Any]) -> Said | None:
    """None where nothing says it."""
    if (like := spec.preprocess.get("like")) is not None:
        return Said(preprocess=_only(tags[like]), origin=f"model.preprocess: {like}")
    if spec.preprocess:
        return Said(preprocess=_only(spec.preprocess), origin="model.preprocess")
    if beside is not None:
        return Said(preprocess=_only(beside.get("preprocess_cfg") or {}), origin=f"{CONFIG} beside the file")
    if tags and len({_text(entry) for entry in tags.values()}) == 1:
        return Said(preprocess=_only(next(iter(tags.values()))), origin=f"what the known tags agree on: {_some(tags)}")
    return None


def _quick_gelu(
    name: str, spec: ModelSpec, beside: Mapping[str, Any] | None, tags: Mapping[str, Mapping[str, Any]]
) -> bool | None:
    """Whether the weights were trained with QuickGELU; None where nothing says it."""
    if spec.activation is not None:
        return spec.activation == "quickgelu"
    if beside is not None:
        return bool(beside["model_cfg"].get("quick_gelu", False))
    kinds = {trained_quick(name, entry) for entry in tags.values()}
    if len(kinds) == 1:
        return kinds.pop()
    if not kinds and f"{name}-quickgelu" not in model_catalog.architectures():
        return is_quick(name)
    return None


def _question(
    name: str, path: Path, tags: Mapping[str, Mapping[str, Any]], *, asks_activation: bool, asks_preprocess: bool
) -> UserError:
    what = " and ".join(
        word
        for word, asked in (("which activation", asks_activation), ("which preprocessing", asks_preprocess))
        if asked
    )
    why = "the known weights of it differ" if tags else "no weights of it are known"
    hints = []
    if asks_activation:
        quick = [tag for tag, entry in tags.items() if trained_quick(name, entry)]
        plain = [tag for tag in tags if tag not in quick]
        hints.append(
            f"use `name: {name}-quickgelu` if they are like {_some(quick) or 'those of OpenAI or MetaCLIP'}, or set "
            f"`activation: gelu` under model if they are like {_some(plain) or 'those of LAION'}"
        )
    if asks_preprocess:
        one_each: dict[str, str] = {}
        for tag, entry in tags.items():
            one_each.setdefault(_text(entry), tag)
        like = " or ".join(f"`preprocess: {tag}`" for tag in one_each.values())
        hints.append(f"set {like + ' (as those tags), or ' if like else ''}{_WRITE} under model")
    return UserError(
        f"the checkpoint {path} does not say with {what} it was trained as a {name}, and {why}", "; and ".join(hints)
    )


def _beside(path: Path) -> Mapping[str, Any] | None:
    """The open_clip_config.json of the file's folder, if it is one."""
    try:
        found = json.loads((path.parent / CONFIG).read_text("utf-8"))
        return found if isinstance(found["model_cfg"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _only(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in KEYS if entry.get(key) is not None}


def _text(entry: Mapping[str, Any]) -> str:
    """Equal for entries that prepare pictures alike."""
    return json.dumps(_only(entry), sort_keys=True)


def _some(tags: Any) -> str:
    names = list(tags)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
