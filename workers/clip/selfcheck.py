"""Before the first batch: does the fast road give what reference open_clip gives?

The reference is Pillow, open_clip's own evaluation transform and an fp32 forward pass over the pictures in
`selfcheck_pictures/` and a few texts. The fast road is the engine as it will run. Under the stated cosine the worker
refuses to run, so that a driver, a library or a processor that computes otherwise cannot fill a table quietly.

N pictures or texts, D dimension.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.samples import Picture

PICTURES = Path(__file__).parent / "selfcheck_pictures"
TEXTS = (
    "a red circle above a blue square",
    "dog",
    "A photograph of two people, a bicycle and a very long street with houses on both sides, taken on a rainy evening.",
    "",
)
MIN_COSINE = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999}
AUTO_MIN_COSINE = 0.9995  # `precision: auto` keeps low precision above this; the margin is for harder pictures

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Unit-length reference vectors (N, D) of the pictures and texts, in the order of their names."""

    images_ND: Vectors
    texts_ND: Vectors


class _Engine(Protocol):
    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture: ...
    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> Vectors: ...
    def encode_texts(self, texts: Sequence[str]) -> Vectors: ...


def pictures() -> dict[str, bytes]:
    """The bundled pictures by file name, sorted."""
    found = {path.name: path.read_bytes() for path in sorted(PICTURES.iterdir()) if path.suffix != ".py"}
    assert found, f"{PICTURES} is empty: the package was built without its data"
    return found


def reference_rgb(image: bytes) -> Image.Image:
    """What a user of open_clip does with Pillow: upright, alpha on white, RGB."""
    with Image.open(io.BytesIO(image)) as opened:
        upright = ImageOps.exif_transpose(opened)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def reference_of_pictures(model: Any, transform: Callable[[Image.Image], Tensor], device: torch.device) -> Vectors:
    """`model` in fp32 on `device`. One picture at a time: a large model barely fits."""
    with torch.inference_mode():
        images = [
            model.encode_image(transform(reference_rgb(image))[None].to(device), normalize=True)
            for image in pictures().values()
        ]
    vectors_ND: Vectors = torch.cat(images).cpu().numpy()
    return vectors_ND


def reference_of_texts(model: Any, tokenizer: Callable[[list[str]], Tensor], device: torch.device) -> Vectors:
    """`model` in fp32 on `device`."""
    with torch.inference_mode():
        vectors_ND: Vectors = model.encode_text(tokenizer(list(TEXTS)).to(device), normalize=True).cpu().numpy()
    return vectors_ND


def fast_vectors(engine: _Engine, *, words: bool = False) -> Reference:
    """The same pictures and texts on the engine's own road; `words`: the texts alone."""
    if words:
        texts_ND = engine.encode_texts(TEXTS)
        return Reference(images_ND=texts_ND[:0], texts_ND=texts_ND)
    limits = Limits()
    pixels_NCHW = np.stack([engine.prepare(image, limits).pixels_CHW for image in pictures().values()])
    return Reference(images_ND=engine.encode_images(pixels_NCHW), texts_ND=engine.encode_texts(TEXTS))


def reference_from(stored: dict[str, Any] | None, identity: str) -> Reference | None:
    """An earlier result of `compare`, if it is of these weights, pictures and texts; else None."""
    if not stored or stored.get("identity") != identity or stored.get("texts_of") != list(TEXTS):
        return None
    if stored.get("pictures") != list(pictures()):
        return None
    return Reference(
        images_ND=np.asarray(stored["images"], np.float32), texts_ND=np.asarray(stored["texts"], np.float32)
    )


def compare(reference: Reference, fast: Reference, *, identity: str, precision: str) -> dict[str, Any]:
    """The reference as plain lists, with the least cosine met. Raises UserError where that is too low.

    A cosine that is not a number counts as too low.
    """
    names = [*pictures(), *(f'"{text}"' for text in TEXTS)]
    cosines_N = _cosines(reference, fast)
    worst = int(np.argmin(np.nan_to_num(cosines_N, nan=-2.0)))
    floor = MIN_COSINE[precision]
    if not cosines_N[worst] >= floor:
        raise UserError(
            f"self-check: {names[worst]} in {precision} has cosine {cosines_N[worst]:.6f} to reference open_clip, "
            f"under {floor}",
            "set `precision: fp32` for this model; if that fails too, the installation computes wrongly"
            if precision != "fp32"
            else "this installation of torch or Pillow computes wrongly on this machine",
        )
    return {
        "identity": identity,
        "pictures": list(pictures()),
        "texts_of": list(TEXTS),
        "images": reference.images_ND.tolist(),
        "texts": reference.texts_ND.tolist(),
        "min_cosine": float(cosines_N[worst]),
    }


def least_cosine(reference: Reference, fast: Reference) -> float:
    """Over pictures and texts; -2 where a vector is not finite."""
    return float(np.nan_to_num(_cosines(reference, fast), nan=-2.0).min())


def _cosines(reference: Reference, fast: Reference) -> Vectors:
    images_N = (reference.images_ND * fast.images_ND).sum(axis=1)
    texts_N = (reference.texts_ND * fast.texts_ND).sum(axis=1)
    return np.concatenate([images_N, texts_N])
