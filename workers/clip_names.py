"""Which weights and which architecture a `ModelSpec` means. Reads no weights; downloads only where a tag or a hub
name asks for it.

| name                       | pretrained             | weights                                                       |
|----------------------------|------------------------|---------------------------------------------------------------|
| clipmill-tiny              | -                      | the folder shipped with clipmill                              |
| a folder, local-dir:FOLDER | -                      | open_clip_config.json and the checkpoint beside it            |
| hf-hub:ORG/REPO            | -                      | from the Hugging Face Hub, or its cache                       |
| an open_clip architecture  | a tag of open_clip's   | from where open_clip publishes them, or its cache             |
| an open_clip architecture  | a file                 | .safetensors, or .pt .pth .bin that load with weights_only    |
| any of these               | random                 | none: seeded random numbers, for tests, and only if asked for |
"""

import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip import pretrained as hub
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX

from schemas.errors import UserError
from schemas.model import ModelSpec

TINY = "clipmill-tiny"
RANDOM = "random"
MODELS = Path(__file__).parent / "models"
CONFIG = "open_clip_config.json"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

# open_clip's own order of preference, safetensors first.
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`open_clip_name` is what `create_model` and `get_tokenizer` take. `checkpoint` is None only for `random`.

    `preprocess` overrides what open_clip takes by default, as a tag's entry does.
    """

    open_clip_name: str
    checkpoint: Path | None
    pretrained: str
    preprocess: dict[str, Any] = field(default_factory=dict)


def resolve(spec: ModelSpec) -> Resolved:
    """Raises UserError for an unknown name or tag, and where there are no weights."""
    if spec.name == TINY:
        return _from_folder(MODELS / TINY, spec)
    if spec.name.startswith(HF_HUB_PREFIX):
        return _from_hub(spec)
    folder = Path(spec.name.removeprefix(LOCAL_DIR_PREFIX)).expanduser()
    if spec.name.startswith(LOCAL_DIR_PREFIX) or (folder / CONFIG).is_file() or _looks_like_path(spec.name):
        return _from_folder(folder, spec)
    return _from_architecture(spec)


def _looks_like_path(name: str) -> bool:
    """`ViT-B/32` is open_clip's old spelling of a name; a path starts like one."""
    return name.startswith((".", "/", "~")) or os.path.isdir(name)


def _from_folder(folder: Path, spec: ModelSpec) -> Resolved:
    if not folder.is_dir():
        raise UserError(
            f"the model folder {folder} does not exist", f"name a folder that holds {CONFIG} and a checkpoint"
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"the model folder {folder} has no {CONFIG}", "save the model with open_clip's save_for_hf")
    _check_config(folder / CONFIG)
    name = f"{LOCAL_DIR_PREFIX}{folder.resolve()}"
    if spec.pretrained == RANDOM:
        return Resolved(open_clip_name=name, checkpoint=None, pretrained=RANDOM)
    if spec.pretrained is not None:
        raise UserError(
            f"`pretrained: {spec.pretrained}` means nothing beside the model folder {folder}",
            "leave `pretrained` out: a folder holds its own weights",
        )
    found = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES and path.is_file())
    if not found:
        raise UserError(
            f"the model folder {folder} has a configuration but no weights",
            "put model.safetensors into it, or ask for `pretrained: random` if random vectors are what you want",
        )
    by_name = {path.name: path for path in found}
    chosen = next((by_name[name] for name in _PREFERRED if name in by_name), None)
    if chosen is None and len(found) > 1:
        raise UserError(
            f"the model folder {folder} has several checkpoints: {', '.join(by_name)}", "keep one, as model.safetensors"
        )
    return Resolved(open_clip_name=name, checkpoint=chosen or found[0], pretrained="")


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        complete = all(key in config["model_cfg"] for key in ("embed_dim", "vision_cfg", "text_cfg"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an open_clip configuration", "it is JSON with the key model_cfg") from error
    if not complete:
        raise UserError(f"{path} lacks embed_dim, vision_cfg or text_cfg in model_cfg", "save it again with open_clip")


def _from_hub(spec: ModelSpec) -> Resolved:
    if spec.pretrained == RANDOM:
        return Resolved(open_clip_name=spec.name, checkpoint=None, pretrained=RANDOM)
    repo = spec.name.removeprefix(HF_HUB_PREFIX)
    if spec.pretrained is not None:
        raise UserError(
            f"`pretrained: {spec.pretrained}` means nothing beside {spec.name}",
            "leave `pretrained` out: a hub repository holds its own weights",
        )
    try:
        hub.download_pretrained_from_hf(repo, filename=CONFIG)
        checkpoint = hub.download_pretrained_from_hf(repo)
    except Exception as error:  # the hub's client and its transport raise some twenty kinds
        raise _no_download(f"{spec.name} could not be fetched from the Hugging Face Hub", error) from error
    return Resolved(open_clip_name=spec.name, checkpoint=Path(checkpoint), pretrained="")


def _from_architecture(spec: ModelSpec) -> Resolved:
    name = spec.name.replace("/", "-")
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, TINY], n=4, cutoff=0.5)
        raise UserError(
            f"there is no model named '{spec.name}'",
            f"nearest known names: {', '.join(near)}" if near else f"try {TINY}, a folder, or a name of open_clip",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if spec.pretrained is None:
        raise UserError(f"model {name} is named without weights", f"set `pretrained` to {_choices(tags)}")
    if spec.pretrained == RANDOM:
        return Resolved(open_clip_name=name, checkpoint=None, pretrained=RANDOM)
    tag_config = hub.get_pretrained_cfg(name, spec.pretrained)
    if tag_config:
        return _from_tag(name, spec.pretrained, tag_config)
    path = Path(spec.pretrained).expanduser()
    if path.suffix not in CHECKPOINT_SUFFIXES and not path.exists():
        raise UserError(f"'{spec.pretrained}' is no pretrained tag of {name}", f"set `pretrained` to {_choices(tags)}")
    if not path.is_file():
        raise UserError(
            f"the checkpoint {path} does not exist", "name an existing .safetensors, .pt, .pth or .bin file"
        )
    return Resolved(open_clip_name=name, checkpoint=path, pretrained=str(path.resolve()))


def _from_tag(name: str, tag: str, tag_config: dict[str, Any]) -> Resolved:
    needs_quick_gelu = bool(tag_config.get("quick_gelu", False))
    has_quick_gelu = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if needs_quick_gelu != has_quick_gelu:
        # open_clip only warns, and the vectors come out worse than they should.
        other = f"{name}-quickgelu" if needs_quick_gelu else name.removesuffix("-quickgelu")
        raise UserError(
            f"the weights '{tag}' were trained with{'' if needs_quick_gelu else 'out'} QuickGELU and {name} is "
            f"built with{'' if has_quick_gelu else 'out'} it",
            f"use `name: {other}`",
        )
    try:
        checkpoint = hub.download_pretrained(tag_config)
    except Exception as error:  # urllib, the hub's client and its transport raise some twenty kinds
        raise _no_download(f"the weights '{tag}' of {name} could not be downloaded", error) from error
    preprocess = {key: tag_config[key] for key in _PREPROCESS_KEYS if tag_config.get(key) is not None}
    return Resolved(open_clip_name=name, checkpoint=Path(checkpoint), pretrained=tag, preprocess=preprocess)


def _choices(tags: list[str]) -> str:
    return f"{', '.join(tags)}, or the path of a checkpoint" if tags else "the path of a checkpoint"


def _no_download(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what} ({type(error).__name__})",
        "without a network, point `pretrained` at a checkpoint file or `name` at a folder that holds "
        f"{CONFIG} and the weights",
    )
