"""What the unit loop asks of a model, so that the real one and the stub are interchangeable.

Shapes: B batch, C = 3 channels, H and W pixels of the model's input, D dimension of the shared space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.samples import Picture


class OutOfMemory(Exception):
    """The device ran out of memory at this batch size; halving it may help."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text and its token ids, int64 (L,)."""

    text: str
    ids_L: npt.NDArray[np.int64]


Text = str | Tokens


class Engine(Protocol):
    """A loaded model. Thread-safe: several units share one engine."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_size(self) -> int:
        """Images per forward pass that this device takes well."""
        ...

    @property
    def samples_at_once(self) -> int:
        """Samples that are best handed over together: one batch of images or several, and their texts."""
        ...

    @property
    def callers(self) -> int:
        """How many units at once it can serve: two on a GPU, where one prepares while the other's results are computed;
        as many as it has threads on a CPU."""
        ...

    def share(self, callers: int) -> None:
        """This many callers, at most `callers`, are at work from now on: a CPU's threads are divided among them."""
        ...

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        """Decode and preprocess one image on the calling thread; with `phash` its perceptual hash too.

        Raises `schemas.unit.samples.BadImage`.
        """
        ...

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unit-length image vectors, float32 (B, D). A row that is not finite comes back as NaN. Raises OutOfMemory."""
        ...

    def prepare_texts(self, texts: Sequence[str]) -> Sequence[Text]:
        """What `encode_texts` takes, tokenised on the calling thread while another one uses the model."""
        ...

    def encode_texts(self, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """Unit-length text vectors, float32 (B, D), in the order given. Raises OutOfMemory."""
        ...

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """Words of the texts that the model was never trained on, which say nothing to it; each once, in lower case.
        Known only of a model that marks them, by token vectors of zeros, as clipmill-tiny does."""
        ...

    def tune(self) -> None:
        """Find the batch size that this device takes best, in a second or two."""
        ...

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        """Compare the fast path with the reference path; returns the reference vectors as plain lists.

        `reference` is an earlier result for the same fingerprint, so that the slow path runs once per fingerprint.
        Raises UserError under the stated cosine.
        """
        ...


def halving(encode: Callable[[Any], npt.NDArray[np.float32]], inputs: Any) -> npt.NDArray[np.float32]:
    """Encode; where the device has no room for so many at once, in halves. Raises OutOfMemory for a single one."""
    try:
        return encode(inputs)
    except OutOfMemory:
        if len(inputs) <= 1:
            raise
        middle = len(inputs) // 2
        return np.concatenate([halving(encode, inputs[:middle]), halving(encode, inputs[middle:])])
