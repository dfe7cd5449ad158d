"""What flows through a worker: one sample as read, and one as decoded.

Shapes: H, W of the model's input in pixels; C = 3, RGB.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# A value of a kept metadata column: None where the sample has none.
Metadata = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with its caption, still encoded, as a reader yields it.

    `id` follows the job file's `source.id`; for `content` the reader leaves it empty and the unit loop sets it
    from the hash of the bytes. `image_offset` and `image_size` give the byte range inside the object that `uri`
    points into, null where the bytes are not stored as they are (gzip, parquet). `unread`: for each column whose value
    could not be read as its type, and is null for that, one sentence that says so. `orientation`: EXIF 1..8 where the
    source says it and the bytes do not.
    """

    id: str
    uri: str
    image: bytes = field(repr=False)
    caption: str | None = None
    metadata: Metadata = field(default_factory=dict)
    image_offset: int | None = None
    image_size: int | None = None
    unread: dict[str, str] = field(default_factory=dict)
    orientation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded image at the model's size: `pixels_CHW` uint8 RGB, and the size of the original in pixels
    (after EXIF orientation)."""

    pixels_CHW: npt.NDArray[np.uint8]
    width: int
    height: int
    thumbnail: bytes | None = None  # WebP, longest side 256 pixels, where the job asks for it
    phash: int | None = None  # a perceptual hash, where the job asks for it


class BadImage(Exception):
    """A decoder's refusal: `reason` is a value of `schemas.unit.rejects.Reason`, `detail` one line."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
