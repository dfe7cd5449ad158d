"""A model that needs no torch: unit vectors from hashes, for tests of everything around the model.

Equal pixels give equal vectors, equal texts too; nothing else is meant by them. Environment, read at each call:

| variable                 | effect                                                                     |
|--------------------------|----------------------------------------------------------------------------|
| CLIPMILL_STUB_SLEEP_MS   | `prepare` sleeps that long for each image                                   |
| CLIPMILL_STUB_KILL       | an image whose bytes contain this text kills the process (SIGKILL)          |
| CLIPMILL_STUB_HANG       | an image whose bytes contain this text never comes back                     |
| CLIPMILL_STUB_NAN        | an image whose bytes contain this text gets a vector that is not finite     |
| CLIPMILL_STUB_OOM_ABOVE  | `encode_images` of more images than this raises OutOfMemory                 |

B batch, C = 3 channels, H and W pixels, D dimension.
"""

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint, Preprocess
from clipmill.schemas.unit.samples import Picture
from clipmill.workers.decode.phash import phash as make_phash
from clipmill.workers.decode.picture import decode
from clipmill.workers.decode.picture import thumbnail as make_thumbnail
from clipmill.workers.engine import OutOfMemory, Text

DEFAULT_DIM = 16
SIZE_PX = 16
_NAN_PIXELS = np.full((3, SIZE_PX, SIZE_PX), 251, np.uint8)


class StubEngine:
    """See the module. Implements `workers.engine.Engine`."""

    def __init__(self, dim: int) -> None:
        self._fingerprint = Fingerprint(
            model="stub" if dim == DEFAULT_DIM else f"stub:{dim}",
            pretrained="",
            weights_sha256=hashlib.sha256(f"clipmill stub {dim}".encode()).hexdigest(),
            preprocess=Preprocess(
                size_HW=(SIZE_PX, SIZE_PX), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash"
            ),
            tokenizer="utf-8",
            dim=dim,
            provenance={"precision": "fp32", "device": "cpu"},
        )

    @staticmethod
    def from_name(name: str) -> "StubEngine":
        """`stub`, or `stub:D` with D the dimension."""
        dim = name.removeprefix("stub").removeprefix(":") or str(DEFAULT_DIM)
        if not dim.isdecimal() or not 1 <= int(dim) <= 8192:
            raise UserError(f"'{name}' names no dimension between 1 and 8192", "write stub:16")
        return StubEngine(int(dim))

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def dim(self) -> int:
        return self._fingerprint.dim

    @property
    def batch_size(self) -> int:
        return 32

    @property
    def samples_at_once(self) -> int:
        return self.batch_size

    @property
    def callers(self) -> int:
        return 1

    def share(self, callers: int) -> None:
        """It computes on the calling thread."""

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        """See `workers.engine.Engine.prepare`."""
        if sleep_ms := os.environ.get("CLIPMILL_STUB_SLEEP_MS"):
            time.sleep(float(sleep_ms) / 1000)
        if _marked(image, "CLIPMILL_STUB_KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        while _marked(image, "CLIPMILL_STUB_HANG"):
            time.sleep(3600)
        decoded = decode(image, limits, target_px=SIZE_PX)
        small = Image.fromarray(decoded.pixels_HWC).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)
        pixels_CHW = np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
        if _marked(image, "CLIPMILL_STUB_NAN"):
            pixels_CHW = _NAN_PIXELS.copy()
        return Picture(
            pixels_CHW=pixels_CHW,
            width=decoded.width,
            height=decoded.height,
            thumbnail=make_thumbnail(decoded.pixels_HWC) if thumbnail else None,
            phash=make_phash(decoded) if phash else None,
        )

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_images`."""
        most = os.environ.get("CLIPMILL_STUB_OOM_ABOVE")
        if most and len(pixels_BCHW) > int(most):
            raise OutOfMemory(f"the stub takes {most} images")
        vectors_BD = self._vectors([pixels_CHW.tobytes() for pixels_CHW in pixels_BCHW])
        for row, pixels_CHW in enumerate(pixels_BCHW):
            if np.array_equal(pixels_CHW, _NAN_PIXELS):
                vectors_BD[row] = np.nan
        return vectors_BD

    def prepare_texts(self, texts: Sequence[str]) -> Sequence[Text]:
        return texts

    def encode_texts(self, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_texts`."""
        plain = [text if isinstance(text, str) else text.text for text in texts]
        return self._vectors([text.encode("utf-8", "surrogatepass") for text in plain])

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """It hashes every word."""
        return []

    def tune(self) -> None:
        """Its batch size is fixed."""

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        """Nothing to compare with; the stub has one road only."""
        return reference or {"identity": self.fingerprint.weights_sha256}

    def _vectors(self, contents: list[bytes]) -> npt.NDArray[np.float32]:
        vectors_BD = np.empty((len(contents), self.dim), np.float32)
        for row, content in enumerate(contents):
            vectors_BD[row] = np.random.default_rng(xxhash.xxh3_64_intdigest(content)).standard_normal(self.dim)
        vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        return vectors_BD


def _marked(image: bytes, variable: str) -> bool:
    marker = os.environ.get(variable, "")
    return marker != "" and marker.encode() in image
