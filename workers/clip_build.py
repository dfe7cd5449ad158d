"""From a `ModelSpec` to a running `ClipEngine`: the choices of device, precision and batch size."""

import importlib.metadata
from typing import Literal

import torch

from schemas.errors import UserError
from schemas.model import Fingerprint, ModelSpec
from workers import selfcheck
from workers.clip import ClipEngine, Parts
from workers.clip_load import Loaded, build_model, load_clip, reference_transform, weights_sha256
from workers.clip_names import Resolved
from workers.towers import ImageTower, TextTower, fold_normalisation, native_bf16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = 32
_GPU_BATCH = 256


def build_engine(spec: ModelSpec, *, device: str, threads: int, batch_size: int | Literal["auto"]) -> ClipEngine:
    """Raises UserError for a model or device that is not there. See `workers.load.load_engine`."""
    where = _device(device)
    if threads > 0:
        torch.set_num_threads(threads)
    loaded = load_clip(spec)
    precision = _precision(spec.precision, where)
    fingerprint = _fingerprint(spec, loaded, where, precision)
    text_tower = TextTower(loaded.model, loaded.tokenizer(list(selfcheck.TEXTS)))
    folded = precision != "fp32" and fold_normalisation(loaded.model, loaded.preprocess)
    dtype = _DTYPES[precision]
    if precision == "fp32":
        # TF32 rounds to ten bits, which is not what fp32 was asked for.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    loaded.model.to(device=where, dtype=dtype)
    parts = Parts(
        image_tower=ImageTower(loaded.model, loaded.preprocess, dtype=dtype, folded=folded),
        text_tower=text_tower,
        tokenizer=loaded.tokenizer,
        fingerprint=fingerprint,
        device=where,
        precision=precision,
        batch_size=_batch_size(batch_size, where),
        threads=threads,
        build_reference=lambda: _reference(loaded, loaded.resolved, where),
    )
    return ClipEngine(parts)


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


def _fingerprint(spec: ModelSpec, loaded: Loaded, device: torch.device, precision: str) -> Fingerprint:
    model = loaded.model
    bias = getattr(model, "logit_bias", None)
    return Fingerprint(
        model=spec.name,
        pretrained=loaded.resolved.pretrained,
        weights_sha256=weights_sha256(model),
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer_id,
        dim=loaded.dim,
        logit_scale=_scalar(model.logit_scale.exp()),
        logit_bias=None if bias is None else _scalar(bias),
        provenance={
            "precision": precision,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "open_clip": importlib.metadata.version("open_clip_torch"),
            "torch": str(torch.__version__),
            "pillow": importlib.metadata.version("pillow"),
            "simplejpeg": importlib.metadata.version("simplejpeg"),
        },
    )


def _scalar(value: torch.Tensor) -> float:
    return float(value.detach().reshape(-1)[0])


def _reference(loaded: Loaded, resolved: Resolved, device: torch.device) -> selfcheck.Reference:
    model = build_model(resolved).to(device)
    return selfcheck.reference_vectors(model, reference_transform(loaded.preprocess), loaded.tokenizer, device)
