"""From a `ModelSpec` to an open_clip model with its weights, in fp32 on the CPU.

The only module that builds open_clip models; everything it refuses is a UserError that says what to change.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec, Preprocess
from clipmill.schemas.text.secrets import one_line
from clipmill.workers.clip.alike import bounded, hash_of
from clipmill.workers.clip.library import WHOLE, Library, evaluation_transform, plain
from clipmill.workers.clip.names import find
from clipmill.workers.clip.pages import FilePages
from clipmill.workers.naming.hub import without_waiting
from clipmill.workers.naming.names import HF_HUB_PREFIX, INSTALL_HF, Resolved

logger = logging.getLogger(__name__)

RANDOM_SEED = 20261121

Tokenizer = Callable[[list[str]], Tensor]  # texts -> int64 (B, L)

# torch.nn.init's functions come by under these names too.
_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.erfinv_,
    torch.nn.init.normal_,
    torch.nn.init.uniform_,
    torch.nn.init.kaiming_uniform_,
    torch.nn.init.trunc_normal_,
}

_MODEL_SOURCE_ERRORS = (KeyError, TypeError, AssertionError, AttributeError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """`model` in fp32 evaluation mode on the CPU; `tokenizer_id` names the tokenizer for the fingerprint."""

    model: Any  # an nn.Module with encode_image and encode_text; open_clip has no types
    tokenizer: Tokenizer
    tokenizer_id: str
    preprocess: Preprocess
    resolved: Resolved
    dim: int
    logit_scale: float  # exponentiated
    logit_bias: float | None
    library: Library  # that built it
    pages: FilePages  # of the checkpoint, in which the model's tensors may lie


def load_clip(spec: ModelSpec, library: Library = WHOLE) -> Loaded:
    """Raises UserError for an unknown model, missing or unreadable weights, and weights of another shape.

    `library`: the copy will do where the model is `plain`, and is not used for another. Where it cannot build
    it, as in another release, all of open_clip does; what is wrong with the model itself is then raised by that.
    """
    resolved = find(spec, library)
    if library is not WHOLE and plain(config_of(resolved, library)):
        try:
            return _loaded(resolved, library)
        except Exception as error:  # noqa: BLE001 - of a release that is made otherwise, anything
            logger.info("open_clip is imported whole: %s: %s", type(error).__name__, error)
    return _loaded(resolved, WHOLE)


def _loaded(resolved: Resolved, library: Library) -> Loaded:
    model = build_model(resolved, library)
    tokenizer = _load_tokenizer(resolved, library)
    bias = getattr(model, "logit_bias", None)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        tokenizer_id=_tokenizer_id(tokenizer),
        preprocess=_preprocess_of(model),
        resolved=resolved,
        dim=int(config_of(resolved, library)["embed_dim"]),
        logit_scale=_scalar(model.logit_scale.exp()),
        logit_bias=None if bias is None else _scalar(bias),
        library=library,
        pages=file_pages(resolved, model),
    )


def build_model(resolved: Resolved, library: Library = WHOLE) -> Any:
    """The model with its weights; once more from the same files, this is the reference of the self-check."""
    initialise = nullcontext() if resolved.checkpoint is None else _LeaveUninitialised()
    factory = library.part("factory")
    with _quiet_open_clip(), _hub(resolved, library), torch.random.fork_rng(devices=[]), initialise:
        torch.manual_seed(RANDOM_SEED)  # decides the weights only of `pretrained: random`
        try:
            model = factory.create_model(
                resolved.open_clip_name,
                load_weights=False,
                pretrained_text=False,
                force_preprocess_cfg=dict(resolved.preprocess),
            )
        except ImportError as error:
            raise UserError(
                f"{resolved.open_clip_name} needs another library: {error}",
                INSTALL_HF,
            ) from error
        except _MODEL_SOURCE_ERRORS as error:
            raise UserError(
                f"open_clip cannot build {resolved.open_clip_name}: {one_line(error, 300)}",
                "check its open_clip_config.json",
            ) from error
    if resolved.checkpoint is not None:
        _load_weights(model, resolved, factory.load_checkpoint)
    model.eval().requires_grad_(False)
    return model


def config_of(resolved: Resolved, library: Library) -> Any:
    return library.part("factory").get_model_config(resolved.open_clip_name) or {}


def _hub(resolved: Resolved, library: Library) -> AbstractContextManager[None]:
    """For whatever open_clip may ask the hub: of a text tower or a tokenizer that is not its own."""
    text_cfg = config_of(resolved, library).get("text_cfg", {})
    asks = text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name")
    return without_waiting() if asks or resolved.open_clip_name.startswith(HF_HUB_PREFIX) else nullcontext()


class _LeaveUninitialised(TorchFunctionMode):
    """Skips drawing random weights that a strict load overwrites anyway; seconds for a large model."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def weights_sha256(weights: Mapping[str, Tensor], pages: FilePages) -> str:
    """Hash over name, shape and float bytes of every tensor of a state dict, in the order of names.

    Taken after loading, in fp32: the same weights in safetensors, in a .pt file, or in fp16 have one hash.
    """

    def tensors() -> Iterator[tuple[str, tuple[int, ...], Any]]:
        for name, tensor in sorted(weights.items()):
            values = tensor.detach().cpu().contiguous()
            yield name, tuple(values.shape), values.reshape(-1).view(torch.uint8).numpy()
            pages.let_go([values])

    return hash_of(tensors())


def untrained_tokens(model: Any) -> frozenset[int]:
    """Ids of the tokens whose vector is zero, which no training leaves so: a word made of them says nothing."""
    owner = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
    table = getattr(getattr(owner, "token_embedding", None), "weight", None)
    if table is None:
        return frozenset()
    return frozenset((table.detach() == 0).all(dim=1).nonzero().flatten().tolist())


def reference_transform(preprocess: Preprocess) -> Callable[[Any], Tensor]:
    """open_clip's own evaluation preprocessing: a Pillow image to float32 (C, H, W), normalised."""
    height, width = preprocess.size_HW
    transform = evaluation_transform()(
        image_size=height if height == width else (height, width),
        is_train=False,
        mean=preprocess.mean,
        std=preprocess.std,
        resize_mode=preprocess.resize_mode,
        interpolation=preprocess.interpolation,
        fill_color=preprocess.fill_color,
    )
    return cast(Callable[[Any], Tensor], transform)


# --- weights ---------------------------------------------------------------------------------------------------------


def _load_weights(model: nn.Module, resolved: Resolved, load_checkpoint: Callable[..., Any]) -> None:
    checkpoint, name = resolved.checkpoint, resolved.open_clip_name
    assert checkpoint is not None
    try:
        _refuse_other_positions(model, checkpoint, name)
        with _taken_as_they_are(model):
            load_checkpoint(model, str(checkpoint), strict=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the checkpoint {checkpoint} is damaged, or needs code to be unpickled, which clipmill never runs",
            "save its state_dict as safetensors",
        ) from error
    except (SafetensorError, EOFError) as error:
        raise UserError(f"the checkpoint {checkpoint} is damaged: {one_line(error, 300)}", "copy it again") from error
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"the checkpoint {checkpoint} does not fit the architecture {name}: {one_line(error, 300)}",
            "name the architecture that the checkpoint was trained with",
        ) from error


@contextmanager
def _taken_as_they_are(model: Any) -> Iterator[None]:
    """The model's tensors are the file's own, which lies mapped in memory, instead of copies of them: a model is there
    once while it is hashed, tried and made bf16. Whoever keeps fp32 copies it (`own_weights`). What the file has in
    another dtype than the model is converted."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict = partial(model.load_state_dict, assign=True)
    try:
        yield
    finally:
        del model.load_state_dict
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dtype != dtypes.get(name, tensor.dtype):
            tensor.data = tensor.data.to(dtypes[name])


def file_pages(resolved: Resolved, model: nn.Module) -> FilePages:
    """Those of the checkpoint that the model's tensors are."""
    return FilePages(resolved.checkpoint, [*model.parameters(), *model.buffers()])


def own_weights(model: nn.Module, pages: FilePages, dtype: torch.dtype = torch.float32) -> None:
    """Convert, or copy, what may lie in a file still: a worker computes with it for days, and somebody may write to
    that file. One tensor after the other, so that no two weights are there twice."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            old = tensor.data
            tensor.data = old.to(dtype) if old.is_floating_point() and old.dtype != dtype else old.clone()
            pages.let_go([old])


def _refuse_other_positions(model: nn.Module, checkpoint: Path, name: str) -> None:
    """open_clip interpolates position embeddings of another image size or context length without a word."""
    mine = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key, shape in _shapes(checkpoint).items():
        if key.endswith("positional_embedding") and key in mine and mine[key] != shape:
            raise UserError(
                f"the checkpoint {checkpoint} does not fit the architecture {name}: {key} is {list(shape)} in the "
                f"file and {list(mine[key])} in the architecture",
                "name the architecture that the checkpoint was trained with",
            )


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name, without reading the tensors."""
    if checkpoint.suffix == ".safetensors":
        with safe_open(str(checkpoint), framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
    content = torch.load(checkpoint, map_location="meta", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise KeyError("it holds no tensors by name")
    return {
        str(key).removeprefix("module."): tuple(value.shape)
        for key, value in content.items()
        if isinstance(value, Tensor)
    }


# --- what the fingerprint needs --------------------------------------------------------------------------------------


def _preprocess_of(model: Any) -> Preprocess:
    config = model.visual.preprocess_cfg  # set by open_clip's create_model
    assert isinstance(config, dict)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    return Preprocess(
        size_HW=(height, width),
        mean=_triple(config["mean"]),
        std=_triple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",  # `random` means bicubic
        resize_mode=config["resize_mode"] or "shortest",
        fill_color=int(config["fill_color"] or 0),
    )


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = value if isinstance(value, list | tuple) else (value,) * 3
    return float(red), float(green), float(blue)


def _load_tokenizer(resolved: Resolved, library: Library) -> Tokenizer:
    try:
        with _quiet_open_clip(), _hub(resolved, library):
            return bounded(cast(Tokenizer, library.part("factory").get_tokenizer(resolved.open_clip_name)))
    except ImportError as error:
        raise UserError(
            f"the tokenizer of {resolved.open_clip_name} needs another library: {one_line(error, 300)}",
            INSTALL_HF,
        ) from error
    except Exception as error:  # transformers, the hub's client and its transport raise some twenty kinds
        raise UserError(
            f"the tokenizer of {resolved.open_clip_name} could not be loaded: {one_line(error, 300)}",
            "without a network, put the tokenizer's files into the model folder",
        ) from error


def _tokenizer_id(tokenizer: Any) -> str:
    """Class and sizes; for a Hugging Face tokenizer also a hash of its rules and words."""
    parts = [type(tokenizer).__name__, f"context_length={tokenizer.context_length}"]
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        parts.append(f"vocab_size={tokenizer.vocab_size}")
        if tokenizer.reduction_fn is not None:
            raise UserError(
                "the model's tokenizer drops words at random", "remove reduction_mask from tokenizer_kwargs"
            )
    else:
        backend = getattr(inner, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else repr(sorted(inner.get_vocab().items()))
        parts.append(f"sha256={hashlib.sha256(rules.encode()).hexdigest()}")
    return " ".join(parts)


def _scalar(value: Tensor) -> float:
    return float(value.detach().reshape(-1)[0])


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """open_clip logs through the root logger, also that a model is random, which is said elsewhere."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, logging.CRITICAL))
    try:
        yield
    finally:
        root.setLevel(before)
