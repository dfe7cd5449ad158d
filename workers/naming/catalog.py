"""What open_clip knows, its architectures and their pretrained tags, without importing it.

That would import torch and take seconds, which checking a name before a cluster starts must not.

The architectures are JSON files. The tags are a table in a module of open_clip's that needs torch only for its
downloads, so that module is run alone. Where open_clip is imported already, it is asked itself.
"""

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clipmill.schemas.installed import require

_ALONE = "_clipmill_open_clip"  # the name under which open_clip's folder is a package without its __init__


def architectures() -> list[str]:
    if (open_clip := _imported()) is not None:
        return list(open_clip.list_models())
    return sorted(_files())


def config(name: str) -> dict[str, Any] | None:
    """The model_cfg of an architecture; None for an unknown one."""
    if (open_clip := _imported()) is not None:
        found: dict[str, Any] | None = open_clip.get_model_config(name)
        return found
    path = _files().get(name)
    return None if path is None else json.loads(path.read_text("utf-8"))


def tags(name: str) -> dict[str, Mapping[str, Any]]:
    """Pretrained tag to what open_clip says of it: mean, std, interpolation, resize_mode, quick_gelu and its source."""
    open_clip = _imported()
    table: Any = _pretrained() if open_clip is None else open_clip.pretrained
    return {tag: table.get_pretrained_cfg(name, tag) for tag in table.list_pretrained_tags_by_model(name)}


def _imported() -> Any:
    module = sys.modules.get("open_clip")
    return module if hasattr(module, "get_model_config") else None  # it may be half imported by another thread


@cache
def _folder() -> Path:
    require("looking a model up", "open_clip")
    spec = importlib.util.find_spec("open_clip")  # finds it, imports nothing
    assert spec is not None, "it was found"
    assert spec.origin is not None, "open_clip has no file"
    return Path(spec.origin).parent


@cache
def _files() -> dict[str, Path]:
    return {path.stem: path for path in (_folder() / "model_configs").glob("*.json")}


@cache
def _pretrained() -> Any:
    package = types.ModuleType(_ALONE)
    package.__path__ = [str(_folder())]
    sys.modules[_ALONE] = package
    with _absent("safetensors.torch", "huggingface_hub"):
        return importlib.import_module(f"{_ALONE}.pretrained")


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Importing one of them fails meanwhile, which open_clip's module allows for."""
    modules: dict[str, Any] = sys.modules
    before = {name: modules.get(name) for name in names}
    modules.update(dict.fromkeys(names))  # None says: not to be imported
    try:
        yield
    finally:
        for name, module in before.items():
            del modules[name]
            if module is not None:
                modules[name] = module
