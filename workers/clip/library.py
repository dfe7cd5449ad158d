"""open_clip; and for models of its own kind, a copy of its modules that imports no torchvision, timm or transformers.

Importing open_clip imports these, and torchvision and timm import torch's compiler: more time than torch itself takes,
before anything begins. The towers of open_clip's own kind use none of it. Their modules are run from open_clip's files
under an `__import__` of their own, which gives a stand-in for torchvision and says of the others that they are not
installed, as open_clip is used to. Its evaluation transform gets torchvision without the compiler. Nothing of the copy
is in `sys.modules`: whoever imports open_clip gets it whole. Where a module is not what this expects, as in another
release, open_clip is imported as ever.
"""

import builtins
import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

_LEFT_OUT = ("timm", "transformers")
_COMPILER = "torch._dynamo.utils"
_STAND_IN = frozenset({"torchvision"})


class Library:
    """The modules of open_clip by name: `part("factory")`."""

    def part(self, name: str) -> Any:
        import open_clip

        return importlib.import_module(f"{open_clip.__name__}.{name}")


@contextmanager
def _without_compiler() -> Iterator[None]:
    """torchvision takes one function from torch's compiler, which an operator that finds objects would call: importing
    the compiler for it takes as long as torch itself. A module in its place imports it when it is asked."""
    if _COMPILER in sys.modules:
        yield
        return
    later = sys.modules[_COMPILER] = _Later(_COMPILER)
    try:
        yield
    finally:
        later.leave()


class _Later(ModuleType):
    def leave(self) -> None:
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]

    def is_compile_supported(self, device_type: str) -> Any:
        return self._real().is_compile_supported(device_type)

    def _real(self) -> Any:
        self.leave()
        return importlib.import_module(_COMPILER)

    def __getattr__(self, name: str) -> Any:
        """Whatever else another release takes of it."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)


class _Copy(Library):
    """`absent`: the packages in whose place a stand-in is given."""

    def __init__(self, folder: Path, absent: frozenset[str] = _STAND_IN) -> None:
        self._folder, self._absent = folder, absent
        self._modules: dict[str, ModuleType] = {}

    def part(self, name: str) -> Any:
        if name not in self._modules:
            full, path = f"open_clip.{name}", self._folder / f"{name}.py"
            module = ModuleType(full)
            module.__file__, module.__package__ = str(path), "open_clip"
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
            code = SourceFileLoader(full, str(path)).get_code(full)
            assert code is not None, "a file of source has code"
            self._modules[name] = module
            exec(code, vars(module))  # noqa: S102 - what an import does
        return self._modules[name]

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top, _, rest = name.partition(".")
        if level or top == "open_clip":
            return self.part(name if level else rest)
        if top in self._absent:
            return _Absent
        if top in _LEFT_OUT:
            raise ImportError(f"{top} is left out of what words need")
        return builtins.__import__(name, globals, locals, fromlist or (), level)


class _Named(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Absent(metaclass=_Named):
    """Everything in torchvision (or torch): fit to be a default value or a base class, and no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("this copy of open_clip has no part of torchvision")


WHOLE = Library()


def _folder() -> Path:
    spec = importlib.util.find_spec("open_clip")  # finds it, imports nothing
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@functools.cache
def _copy() -> Library:
    try:
        copy = _Copy(_folder())
        for name in ("pretrained", "factory"):
            copy.part(name)
    except Exception as error:  # noqa: BLE001 - of a release that is made otherwise, anything; then it is imported
        logger.info("open_clip is imported whole: %s: %s", type(error).__name__, error)
        return WHOLE
    return copy


def light() -> Library:
    """The copy, fit for models that are `plain`; or open_clip where that is imported already: models that were
    registered with it are known to it."""
    return WHOLE if "open_clip" in sys.modules else _copy()


def evaluation_transform() -> Any:
    """open_clip's `image_transform`."""
    if "open_clip" not in sys.modules:
        try:
            with _without_compiler():
                return _Copy(_folder(), frozenset()).part("transform").image_transform
        except Exception as error:  # noqa: BLE001 - of a release that is made otherwise, anything
            logger.info("open_clip is imported whole: %s: %s", type(error).__name__, error)
    return WHOLE.part("transform").image_transform


@functools.cache
def without_torch() -> Library:
    """For `tokenizer`, whose `encode` needs no torch, and for `pretrained`. Its parts raise whatever another release
    makes them."""
    return _Copy(_folder(), _STAND_IN | {"torch"})


def plain(config: Mapping[str, Any]) -> bool:
    """Whether a model of this open_clip configuration is open_clip's own from its pixels to its words."""
    text, vision = config.get("text_cfg") or {}, config.get("vision_cfg") or {}
    others = (text.get("hf_model_name"), text.get("hf_tokenizer_name"), vision.get("timm_model_name"))
    return not any(others) and not config.get("multimodal_cfg")


def kind(module: object) -> str:
    """`open_clip.transformer.QuickGELU`: the class's full name, the same whether it is of the copy or not."""
    return f"{type(module).__module__}.{type(module).__qualname__}"
