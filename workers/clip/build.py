"""From a `ModelSpec` to a running `ClipEngine`: the choices of device, precision and batch size."""

import importlib.metadata
from typing import Literal

import torch

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.schemas.text.secrets import one_line
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.engine import ClipEngine, Parts
from clipmill.workers.clip.fold import ROAD_ERRORS
from clipmill.workers.clip.known import Known
from clipmill.workers.clip.library import light
from clipmill.workers.clip.load import Loaded, load_clip, untrained_tokens
from clipmill.workers.clip.ready import DTYPES, side_by_side, text_tower, towers
from clipmill.workers.clip.towers import native_bf16
from clipmill.workers.naming.said import is_quick

_CPU_BATCH = 32
_GPU_BATCH = 256


def build_engine(
    spec: ModelSpec,
    *,
    device: str,
    threads: int,
    batch_size: int | Literal["auto"],
    words: bool = False,
    tune: bool = False,
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
    known, untrained = Known(loaded, where, words=words), untrained_tokens(loaded.model)

    def engine_in(precision: str, note: str = "") -> ClipEngine:
        image_tower, its_texts = (
            (None, text_tower(loaded, where, precision, known.weights))
            if words
            else towers(loaded, where, precision, known.weights)
        )
        said = _provenance(where, precision, note) | _said(loaded)
        parts = Parts(
            image_tower=image_tower,
            text_tower=its_texts,
            tokenizer=loaded.tokenizer,
            fingerprint=_fingerprint(spec, loaded, known.weights(), said),
            device=where,
            precision=precision,
            batch_size=_batch_size(batch_size, where),
            threads=threads,
            untrained=untrained,
            reference=lambda own: known.reference(own, selfcheck.MIN_COSINE[precision]),
        )
        engine = ClipEngine(parts)
        if tune and precision == "fp32":
            engine.tune()
        return engine

    precision, is_auto = _precision(spec.precision, where), spec.precision == "auto"
    if precision == "fp32":
        return engine_in(precision)
    if is_auto:
        known.look_ahead(loaded.model)
    try:
        engine = engine_in(precision)
        fast = _tuned(engine) if tune else engine.own_vectors()
    except ROAD_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = f"{spec.name} does not run in {precision} ({type(error).__name__}: {one_line(error, 300)})"
        if not is_auto:
            raise UserError(reason, "set `precision: auto` or fp32, which every model runs in") from error
    else:
        floor = selfcheck.AUTO_MIN_COSINE
        cosine = selfcheck.least_cosine(known.reference(fast, floor), fast) if is_auto else 1.0
        if not is_auto or cosine >= floor:
            known.keep()
            return engine
        # Some models, most of all untrained ones, amplify rounding.
        reason = f"in {precision} its least cosine to reference open_clip is {cosine:.5f}"
    loaded = load_clip(spec, library)
    return engine_in("fp32", reason)


def _tuned(engine: ClipEngine) -> selfcheck.Reference:
    """Its own vectors, computed while it looks for its batch size: on a GPU the one would be in the other's way."""
    if engine.on_gpu:
        engine.tune()
        return engine.own_vectors()
    engine.share(2)
    _, own = side_by_side(engine.tune, engine.own_vectors)
    return own


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
    if asked in DTYPES:
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
