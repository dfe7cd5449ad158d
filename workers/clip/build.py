"""From a `ModelSpec` to a running `ClipEngine`: the choices of device, precision and batch size."""

import copy
import importlib.metadata
from typing import Any, Literal

import torch
from torch import nn

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.engine import ClipEngine, Parts
from clipmill.workers.clip.fold import (
    ROAD_ERRORS,
    fold_batchnorm,
    fold_normalisation,
    fold_quick_gelu,
    image_features,
    normalise,
    pixel_convs,
    probe_pixels,
    widen_pixel_convs,
)
from clipmill.workers.clip.last import shorten_image_tower
from clipmill.workers.clip.library import light
from clipmill.workers.clip.load import (
    Loaded,
    build_model,
    file_pages,
    load_clip,
    one_line,
    own_weights,
    reference_transform,
    untrained_tokens,
    weights_sha256,
)
from clipmill.workers.clip.pack import pack
from clipmill.workers.clip.towers import ImageTower, TextTower, native_bf16
from clipmill.workers.naming.said import is_quick

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = 32
_GPU_BATCH = 256


def build_engine(
    spec: ModelSpec, *, device: str, threads: int, batch_size: int | Literal["auto"], words: bool = False
) -> ClipEngine:
    """Raises UserError for a model or device that is not there. See `workers.load.load_engine`.

    `words`: no image tower is made ready, tried or compared, nor what only it needs imported. The vectors of texts are
    bit for bit the same, because every text and tower is computed alone; only the choice under `precision: auto`, which
    belongs to both towers, is made by the texts (see `workers.load.load_text_engine`).
    """
    where = _device(device)
    if threads > 0:
        torch.set_num_threads(threads)
    library = light()
    loaded = load_clip(spec, library)
    weights, untrained = weights_sha256(loaded.model, loaded.pages), untrained_tokens(loaded.model)

    def engine_in(precision: str, reference: selfcheck.Reference | None, note: str = "") -> ClipEngine:
        image_tower, text_tower = (
            (None, _text_tower(loaded, where, precision)) if words else _towers(loaded, where, precision)
        )
        parts = Parts(
            image_tower=image_tower,
            text_tower=text_tower,
            tokenizer=loaded.tokenizer,
            fingerprint=_fingerprint(spec, loaded, weights, _provenance(where, precision, note) | _said(loaded)),
            device=where,
            precision=precision,
            batch_size=_batch_size(batch_size, where),
            threads=threads,
            untrained=untrained,
            build_reference=lambda: (
                reference or _reference(build_model(loaded.resolved, loaded.library), loaded, where)
            ),
        )
        return ClipEngine(parts)

    precision = _precision(spec.precision, where)
    if precision == "fp32":
        return engine_in(precision, None)
    reference = _reference(loaded.model, loaded, where, words=words) if spec.precision == "auto" else None
    try:
        engine = engine_in(precision, reference)
        fast = engine.own_vectors()
    except ROAD_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = f"{spec.name} does not run in {precision} ({type(error).__name__}: {one_line(error)})"
        if reference is None:
            raise UserError(reason, "set `precision: auto` or fp32, which every model runs in") from error
    else:
        cosine = 1.0 if reference is None else selfcheck.least_cosine(reference, fast)
        if cosine >= selfcheck.AUTO_MIN_COSINE:
            return engine
        # Some models, most of all untrained ones, amplify rounding.
        reason = f"in {precision} its least cosine to reference open_clip is {cosine:.5f}"
    loaded = load_clip(spec, library)
    return engine_in("fp32", reference, reason)


def _text_tower(loaded: Loaded, device: torch.device, precision: str) -> TextTower:
    """What `_towers` makes of the texts' side; the other one is let go."""
    loaded.model.visual = nn.Identity()
    tokens_BL = loaded.tokenizer(list(selfcheck.TEXTS))
    text_tower = TextTower(loaded.model.to("cpu"), tokens_BL)
    dtype = _choose(loaded.model, precision)
    _convert(loaded, device, dtype)
    if device.type == "cpu" and dtype == torch.bfloat16:
        cut_BL = text_tower.cut(tokens_BL)
        pack(loaded.model, lambda: text_tower(cut_BL))
    return text_tower


def _choose(model: nn.Module, precision: str) -> torch.dtype:
    """The dtype of a precision; what both towers are given before they are in it."""
    if precision == "fp32":
        # TF32 rounds to ten bits, which is not what fp32 was asked for.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        fold_quick_gelu(model)
    return _DTYPES[precision]


def _convert(loaded: Loaded, device: torch.device, dtype: torch.dtype) -> None:
    """To another dtype or device, or a copy: in any case nothing of it lies in the checkpoint's file afterwards."""
    if device.type == "cpu":
        own_weights(loaded.model, loaded.pages, dtype)
    else:
        loaded.model.to(device=device, dtype=dtype)
        loaded.pages.let_go()


def _towers(loaded: Loaded, device: torch.device, precision: str) -> tuple[ImageTower, TextTower]:
    """The model's towers on the device. What no feature needs is left out; in low precision what can be folded into
    the weights is, before they round."""
    loaded.model.to("cpu")
    tokens_BL = loaded.tokenizer(list(selfcheck.TEXTS))
    text_tower = TextTower(loaded.model, tokens_BL)
    loaded.pages.let_go()  # nothing has been written into a weight yet
    pixels_BCHW = probe_pixels(loaded.preprocess)
    normalised_BCHW = normalise(pixels_BCHW, loaded.preprocess)
    shorten_image_tower(loaded.model.visual, lambda: image_features(loaded.model.visual, normalised_BCHW))
    folded, exact = False, {}
    dtype = _choose(loaded.model, precision)
    if precision != "fp32":
        fold_batchnorm(loaded.model, loaded.preprocess)
        folded = fold_normalisation(loaded.model, loaded.preprocess)
        exact = {} if folded else copy.deepcopy(pixel_convs(loaded.model.visual, loaded.preprocess))
    _convert(loaded, device, dtype)
    widen_pixel_convs(loaded.model.visual, exact, dtype)
    image_tower = ImageTower(loaded.model, loaded.preprocess, dtype=dtype, folded=folded, wide=bool(exact))
    if device.type == "cpu" and dtype == torch.bfloat16:
        cut_BL = text_tower.cut(tokens_BL)  # what is not packed yet is slow
        # One after the other: until a tower is proved, it is there twice. Texts call only their part of the model.
        pack(loaded.model.visual, lambda: image_tower(pixels_BCHW))
        pack(loaded.model, lambda: text_tower(cut_BL))
    return image_tower, text_tower


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device named '{name}'", "use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name} was asked for, but torch sees no GPU", "use `device: auto` or cpu")
    return device


def _precision(asked: str, device: torch.device) -> str:
    if asked in _DTYPES:
        return asked
    if asked != "auto":
        raise UserError(f"there is no precision '{asked}'", "use auto, fp32, bf16 or fp16")
    return "bf16" if native_bf16(device) else "fp32"


def _batch_size(asked: int | Literal["auto"], device: torch.device) -> int:
    if asked != "auto":
        return asked
    return _GPU_BATCH if device.type == "cuda" else _CPU_BATCH


def _fingerprint(spec: ModelSpec, loaded: Loaded, weights: str, provenance: dict[str, str]) -> Fingerprint:
    return Fingerprint(
        model=spec.name,
        pretrained=loaded.resolved.pretrained,
        weights_sha256=weights,
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer_id,
        dim=loaded.dim,
        logit_scale=loaded.logit_scale,
        logit_bias=loaded.logit_bias,
        provenance=provenance,
    )


def _provenance(device: torch.device, precision: str, note: str) -> dict[str, str]:
    """`note`: why `precision: auto` came to be fp32 on a device that has a faster one."""
    return {
        **({"precision_note": note} if note else {}),
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "open_clip": importlib.metadata.version("open_clip_torch"),
        "torch": str(torch.__version__),
        "pillow": importlib.metadata.version("pillow"),
        "simplejpeg": importlib.metadata.version("simplejpeg"),
    }


def _said(loaded: Loaded) -> dict[str, str]:
    """What said how pictures are prepared, and the activation of weights that come as a file."""
    resolved = loaded.resolved
    said = {"preprocess_from": resolved.origin}
    if resolved.checkpoint is not None and resolved.pretrained:
        said["activation"] = "quickgelu" if is_quick(resolved.open_clip_name) else "gelu"
    return said


def _once_more(loaded: Loaded) -> Any:
    return build_model(loaded.resolved, loaded.library)


def _reference(model: Any, loaded: Loaded, device: torch.device, *, words: bool = False) -> selfcheck.Reference:
    """One tower after the other: of a checkpoint that is mapped, one is in memory at a time. `model`: as loaded."""
    pages, model = file_pages(loaded.resolved, model), model.to(device)
    reference = selfcheck.reference_of_texts(model, loaded.tokenizer, device)
    pages.let_go()
    if not words:
        transform = reference_transform(loaded.preprocess)
        reference = selfcheck.reference_of_pictures(model, transform, reference, device)
        pages.let_go()
    return reference
