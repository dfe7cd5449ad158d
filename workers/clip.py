"""A loaded CLIP model as the unit loop sees it (`workers.engine.Engine`), on a GPU or a CPU by the same code.

B batch, C = 3 channels, H and W pixels of the model's input, L tokens, D dimension.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from schemas.config import Limits
from schemas.model import Fingerprint
from schemas.samples import Picture
from workers import selfcheck
from workers.clip_load import Tokenizer
from workers.decode import decode
from workers.decode import thumbnail as make_thumbnail
from workers.engine import OutOfMemory
from workers.preprocess import preprocess
from workers.towers import ImageTower, IntraOpThreads, TextTower

# open_clip's tokenizer remembers every word it ever met.
_MAX_REMEMBERED_WORDS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a ClipEngine is put together from. `precision`: fp32, bf16 or fp16, resolved."""

    image_tower: ImageTower
    text_tower: TextTower
    tokenizer: Tokenizer
    fingerprint: Fingerprint
    device: torch.device
    precision: str
    batch_size: int
    threads: int
    build_reference: Callable[[], selfcheck.Reference]  # loads the fp32 model once more


class ClipEngine:
    """Thread-safe: `prepare` runs on any number of threads at once, forward passes one after the other."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._forward_lock = threading.Lock()
        self._threads = IntraOpThreads(parts.threads)
        # fp32 asks for the exact road: no scaling while a JPEG is decoded, and Pillow's own resize.
        self._exact = parts.precision == "fp32"
        self._target_px = None if self._exact else max(parts.fingerprint.preprocess.size_HW)

    @property
    def fingerprint(self) -> Fingerprint:
        return self._parts.fingerprint

    @property
    def dim(self) -> int:
        return self._parts.fingerprint.dim

    @property
    def batch_size(self) -> int:
        return self._parts.batch_size

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False) -> Picture:
        """See `workers.engine.Engine.prepare`."""
        decoded = decode(image, limits, target_px=self._target_px)
        pixels_CHW = preprocess(
            decoded.pixels_HWC,
            self.fingerprint.preprocess,
            original_HW=(decoded.height, decoded.width),
            exact=self._exact,
        )
        small = make_thumbnail(decoded.pixels_HWC) if thumbnail else None
        return Picture(pixels_CHW=pixels_CHW, width=decoded.width, height=decoded.height, thumbnail=small)

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_images`."""
        vectors_BD = np.empty((len(pixels_BCHW), self.dim), np.float32)
        with self._forward():
            for start in range(0, len(pixels_BCHW), self.batch_size):
                chunk = torch.from_numpy(np.ascontiguousarray(pixels_BCHW[start : start + self.batch_size]))
                if self._parts.device.type == "cuda":
                    chunk = chunk.pin_memory().to(self._parts.device, non_blocking=True)
                vectors_BD[start : start + len(chunk)] = _unit_length(self._parts.image_tower(chunk))
        return vectors_BD

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See `workers.engine.Engine.encode_texts`. Equal texts are embedded once, texts of like length together."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return np.empty((0, self.dim), np.float32)
        tokens_BL = self._tokenize(unique)
        order = torch.argsort(self._parts.text_tower.lengths(tokens_BL), stable=True)
        vectors_BD = np.empty((len(unique), self.dim), np.float32)
        with self._forward():
            for start in range(0, len(unique), self.batch_size):
                rows = order[start : start + self.batch_size]
                chunk = tokens_BL[rows].to(self._parts.device)
                vectors_BD[rows.numpy()] = _unit_length(self._parts.text_tower(chunk))
        place = {text: row for row, text in enumerate(unique)}
        return vectors_BD[[place[text] for text in texts]]

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        """See `workers.engine.Engine.self_check` and `workers.selfcheck`."""
        identity = self.fingerprint.weights_sha256
        known = selfcheck.reference_from(reference, identity)
        if known is None:
            with self._forward():
                known = self._parts.build_reference()
        fast = selfcheck.fast_vectors(self)
        return selfcheck.compare(known, fast, identity=identity, precision=self._parts.precision)

    def _tokenize(self, texts: list[str]) -> Tensor:
        tokenizer: Any = self._parts.tokenizer
        words = getattr(tokenizer, "cache", None)
        if isinstance(words, dict) and len(words) > _MAX_REMEMBERED_WORDS:
            # A new dictionary: another thread may be looking into the old one. The special tokens must stay.
            tokenizer.cache = {word: token for word, token in list(words.items()) if word.startswith("<")}
        return cast(Tensor, tokenizer(texts))

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """One forward pass at a time, with the right threads; running out of memory becomes OutOfMemory."""
        with self._forward_lock, torch.inference_mode():
            self._threads.ensure()
            try:
                yield
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise OutOfMemory(str(error).splitlines()[0]) from error
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):  # how the CPU allocator says it
                    raise
                raise OutOfMemory(str(error).splitlines()[0]) from error


def _unit_length(features_BD: Tensor) -> npt.NDArray[np.float32]:
    """float32, divided by their norm; a row that is not finite or is zero becomes NaN."""
    vectors_BD = features_BD.float()
    norms_B1 = vectors_BD.norm(dim=-1, keepdim=True)
    good_B1 = torch.isfinite(norms_B1) & (norms_B1 > 0)
    vectors_BD = torch.where(good_B1, vectors_BD / norms_B1, torch.full_like(vectors_BD, math.nan))
    return cast(npt.NDArray[np.float32], vectors_BD.cpu().numpy())
