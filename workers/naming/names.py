"""What a `ModelSpec` means, as far as its words and the disk tell: nothing is imported but the catalogue, nothing
downloaded, so that the driver can check a model before it starts a cluster.

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
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Model
from clipmill.schemas.model import ModelSpec
from clipmill.workers.naming import catalog as model_catalog
from clipmill.workers.naming import said as model_said

CONFIG = model_said.CONFIG

TINY = "clipmill-tiny"
RANDOM = "random"
MODELS = Path(__file__).parents[1] / "models"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HF_HUB_PREFIX, LOCAL_DIR_PREFIX = "hf-hub:", "local-dir:"  # open_clip's
INSTALL_HF = "pip install 'clipmill[hf]' (transformers and sentencepiece), on every node"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`open_clip_name` is what `create_model` and `get_tokenizer` take.

    `checkpoint`: the weights; None for `random`, and for weights that are still to be fetched. `pretrained` is for the
    fingerprint. `preprocess` overrides what open_clip takes by default, as a tag's entry does; `origin` says whence it
    is. `tag`: open_clip's entry of a pretrained tag.
    """

    open_clip_name: str
    checkpoint: Path | None
    pretrained: str
    origin: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    tag: Mapping[str, Any] | None = None

    @property
    def to_fetch(self) -> bool:
        return self.checkpoint is None and self.pretrained != RANDOM


def check(spec: ModelSpec, *, here: bool = True) -> None:
    """Raises UserError for an unknown name or tag, and for what a checkpoint does not say. `here`: the model will be
    loaded on this machine, so its files and libraries have to be on it."""
    if spec.name != "stub" and not spec.name.startswith("stub:"):
        resolve(spec, here=here)


def resolve(spec: ModelSpec, *, here: bool = True) -> Resolved | None:
    """None for files that are elsewhere (not `here`). Raises UserError; see `check`."""
    if spec.name == TINY:
        return _from_folder(MODELS / TINY, spec)
    if spec.name.startswith(HF_HUB_PREFIX):
        return _from_hub(spec)
    folder = Path(spec.name.removeprefix(LOCAL_DIR_PREFIX)).expanduser()
    if spec.name.startswith(LOCAL_DIR_PREFIX) or (folder / CONFIG).is_file() or _looks_like_path(spec.name):
        return _from_folder(folder, spec) if here or folder.exists() else None
    return _from_architecture(spec, here)


def absolute(model: Model) -> Model:
    """A model folder and a checkpoint on this disk by their whole paths, because actors and later nights run in another
    folder; every other name and tag as it is."""
    file = model.pretrained
    if file and "://" not in file and ("/" in file or "." in file) and Path(file).expanduser().exists():
        file = str(Path(file).expanduser().absolute())
    return model.model_copy(update={"name": _absolute_name(model.name), "pretrained": file})


def on_disk(model: Model) -> list[str]:
    """What it names there, once it is `absolute`."""
    return [path for path in (model.name.removeprefix(LOCAL_DIR_PREFIX), model.pretrained or "") if path[:1] == "/"]


def _absolute_name(name: str) -> str:
    if name == TINY or name.startswith(HF_HUB_PREFIX):
        return name
    prefix = LOCAL_DIR_PREFIX if name.startswith(LOCAL_DIR_PREFIX) else ""
    folder = Path(name.removeprefix(prefix)).expanduser()
    return f"{prefix}{folder.absolute()}" if folder.is_dir() else name


def needs_library(open_clip_name: str, text_cfg: Mapping[str, Any]) -> None:
    """Refuse a model whose texts need transformers where that is missing; open_clip says it late, or not at all."""
    if not (text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name")):
        return
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"{open_clip_name} takes its texts apart with the library transformers, which is not installed",
            INSTALL_HF,
        )


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
    _refuse_choices(spec, f"the model folder {folder}")
    needs_library(f"the model in {folder}", read_config(folder / CONFIG)["text_cfg"])
    name = f"{LOCAL_DIR_PREFIX}{folder.resolve()}"
    if spec.pretrained == RANDOM:
        return Resolved(open_clip_name=name, checkpoint=None, pretrained=RANDOM, origin=CONFIG)
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
    return Resolved(open_clip_name=name, checkpoint=chosen or found[0], pretrained="", origin=CONFIG)


def read_config(path: Path) -> Mapping[str, Any]:
    """The model_cfg of an open_clip_config.json. Raises UserError for one that is damaged or lacks something."""
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        complete = all(key in config for key in ("embed_dim", "vision_cfg", "text_cfg"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an open_clip configuration", "it is JSON with the key model_cfg") from error
    if not complete:
        raise UserError(f"{path} lacks embed_dim, vision_cfg or text_cfg in model_cfg", "save it again with open_clip")
    return config


def _refuse_choices(spec: ModelSpec, weights: str) -> None:
    """Weights that come with their own preprocessing are not given another."""
    for key, value in (("preprocess", spec.preprocess), ("activation", spec.activation)):
        if value:
            raise UserError(
                f"`model.{key}` means nothing beside {weights}, which says it itself",
                f"leave `{key}` out; it is for a checkpoint file that does not say it",
            )


def _from_hub(spec: ModelSpec) -> Resolved:
    _refuse_choices(spec, spec.name)
    if spec.pretrained == RANDOM:
        return Resolved(open_clip_name=spec.name, checkpoint=None, pretrained=RANDOM, origin=CONFIG)
    if spec.pretrained is not None:
        raise UserError(
            f"`pretrained: {spec.pretrained}` means nothing beside {spec.name}",
            "leave `pretrained` out: a hub repository holds its own weights",
        )
    return Resolved(open_clip_name=spec.name, checkpoint=None, pretrained="", origin=CONFIG)


def _from_architecture(spec: ModelSpec, here: bool) -> Resolved | None:
    name = spec.name.replace("/", "-")
    known = model_catalog.architectures()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, TINY], n=4, cutoff=0.5)
        raise UserError(
            f"there is no model named '{spec.name}'",
            f"nearest known names: {', '.join(near)}" if near else f"try {TINY}, a folder, or a name of open_clip",
        )
    tags = model_catalog.tags(name)
    if spec.pretrained is None:
        raise UserError(f"model {name} is named without weights", f"set `pretrained` to {_choices(tags)}")
    if spec.pretrained != RANDOM and not tags.get(spec.pretrained) and not _is_file_name(spec.pretrained, here):
        near = difflib.get_close_matches(spec.pretrained, tags, n=1, cutoff=0.7)
        raise UserError(
            f"'{spec.pretrained}' is no pretrained tag of {name}",
            (f"did you mean {near[0]}? " if near else "") + f"set `pretrained` to {_choices(tags)}",
        )
    if here:
        needs_library(name, (model_catalog.config(name) or {}).get("text_cfg", {}))
    if spec.pretrained == RANDOM:
        said = model_said.of_random(name)
        return _resolved(name, None, RANDOM, said)
    if entry := tags.get(spec.pretrained):
        _refuse_choices(spec, f"the weights '{spec.pretrained}'")
        trained_quick = model_said.trained_quick(name, entry)
        if trained_quick != model_said.is_quick(name):
            raise model_said.other_activation(name, f"the weights '{spec.pretrained}'", quick=trained_quick)
        return _resolved(name, None, spec.pretrained, model_said.of_tag(spec.pretrained, entry), tag=entry)
    path = Path(spec.pretrained).expanduser()
    if not path.is_file():
        if not here:
            return None
        raise UserError(
            f"the checkpoint {path} does not exist", "name an existing .safetensors, .pt, .pth or .bin file"
        )
    path = path.absolute()  # not resolved: in the hub's cache that would be a name without an ending or a folder
    return _resolved(name, path, str(path), model_said.of_file(name, path, spec))


def _is_file_name(pretrained: str, here: bool) -> bool:
    path = Path(pretrained).expanduser()
    return path.suffix in CHECKPOINT_SUFFIXES or path.exists() or (not here and "/" in pretrained)


def _resolved(
    name: str,
    checkpoint: Path | None,
    pretrained: str,
    said: model_said.Said,
    tag: Mapping[str, Any] | None = None,
) -> Resolved:
    return Resolved(
        open_clip_name=name,
        checkpoint=checkpoint,
        pretrained=pretrained,
        preprocess=said.preprocess,
        origin=said.origin,
        tag=tag,
    )


def _choices(tags: Mapping[str, Any]) -> str:
    return f"{', '.join(tags)}, or the path of a checkpoint" if tags else "the path of a checkpoint"
