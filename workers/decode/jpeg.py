"""The fast road for JPEG: libjpeg-turbo, scaled while decoding, and told apart what it only complains of.

libjpeg goes on after damage and fills what is missing with grey. What it says of it decides here: entropy-coded data
that ends before its picture does is `truncated`, an impossible code in it is `corrupt`; a file that lacks nothing but
its end marker is whole; every other complaint is left to Pillow, which sees the same file.

HWC: height, width, channels (RGB).
"""

import re
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode.turn import ORIENTATION, orientation_in

DCT_HEADROOM = 2  # scaled only as far as the shortest side stays this many times the model's size: the filter's say

# Scaling gives the mean of a block before values beyond black and white are clipped, a full decode after it. At sizes
# where the resize leaves little but means, that shows: printed text at 64 pixels came to cosine 0.997. Such a model
# is fast anyway.
MIN_TARGET_PX = 128
# The middle of a very long strip is computed by another road (preprocess.py), which knows full sizes only.
MAX_SCALED_RATIO = 16

_EOI = b"\xff\xd9"
_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)([0-9])')  # Pillow's own pattern
_EXIF = b"Exif\x00\x00"
# libjpeg-turbo's own words (jerror.h), as simplejpeg's strict mode raises them.
_NO_END_MARKER = "Premature end of JPEG file"
_DAMAGE = {
    "premature end of data segment": (Reason.TRUNCATED, "the JPEG's data ends before its picture does"),
    "bad Huffman code": (Reason.CORRUPT, "bad Huffman code in the JPEG's data"),
    "bad arithmetic code": (Reason.CORRUPT, "bad arithmetic code in the JPEG's data"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegHeader:
    """Sizes in pixels as stored; `orientation` 1..8 says how to turn them."""

    width: int
    height: int
    bits: int
    components: int
    orientation: int

    @property
    def is_fast(self) -> bool:
        """Whether `decode_jpeg` knows such pixels: 8 bits, grey or three colours."""
        return self.bits == 8 and self.components in (1, 3)


def decode_jpeg(image: bytes, header: JpegHeader, target_px: int | None) -> npt.NDArray[np.uint8] | None:
    """Pixels as stored, not turned yet; None where Pillow shall decide. `target_px`: see `decode.picture.decode`.

    Raises BadImage with truncated or corrupt.
    """
    divisor = dct_divisor(header.width, header.height, target_px)
    height, width = -(-header.height // divisor), -(-header.width // divisor)
    for candidate in (image, image + _EOI):
        try:
            stored_HWC: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
                candidate, "RGB", min_height=height, min_width=width
            )
        except ValueError as error:
            complaint = str(error)
        else:
            return stored_HWC
        if complaint != _NO_END_MARKER:
            break
    _refuse_damage(complaint)
    return None


def whole_cmyk(image: bytes, header: JpegHeader) -> bytes:
    """A JPEG of four components for Pillow to decode, with its end marker. Raises BadImage as `decode_jpeg` does."""
    if header.bits != 8 or header.components != 4:
        return image
    for candidate in (image, image + _EOI):
        try:
            # Only what libjpeg says is wanted, so at an eighth of the size.
            simplejpeg.decode_jpeg(
                candidate, "CMYK", min_height=-(-header.height // 8), min_width=-(-header.width // 8)
            )
        except ValueError as error:
            complaint = str(error)
            if complaint == _NO_END_MARKER:
                continue
            _refuse_damage(complaint)
        return candidate
    return image


def _refuse_damage(complaint: str) -> None:
    for words, (reason, detail) in _DAMAGE.items():
        if words in complaint:
            raise BadImage(reason, detail)


def dct_divisor(width: int, height: int, target_px: int | None) -> int:
    """1, 2, 4 or 8: by how much a JPEG of this size may shrink while it is decoded."""
    shortest, longest = sorted((width, height))
    if target_px is not None and target_px >= MIN_TARGET_PX and longest <= MAX_SCALED_RATIO * shortest:
        for divisor in (8, 4, 2):
            if shortest // divisor >= DCT_HEADROOM * target_px:
                return divisor
    return 1


def read_jpeg_header(image: bytes) -> JpegHeader | None:
    """Size and orientation from the marker segments (ITU-T T.81, B.2); None if there is no frame header."""
    position, end = 2, len(image)
    exif, xmp = b"", b""
    frame: tuple[int, int, int, int] | None = None
    while position + 4 <= end:
        if image[position] != 0xFF:
            return None  # garbage between segments: Pillow knows how to skip it
        marker = image[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill byte, or a marker without a segment
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):  # the scan starts, or the image ends
            break
        length = int.from_bytes(image[position + 2 : position + 4], "big")
        body = position + 4
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and body + 6 <= end:
            bits, height, width, components = struct.unpack_from(">BHHB", image, body)
            frame = (bits, height, width, components)
        elif marker == 0xE1 and image.startswith(_EXIF, body):
            exif += image[body + len(_EXIF) : position + 2 + length]
        elif marker == 0xE1 and image.startswith(_XMP, body):
            xmp = image[body : position + 2 + length]
        position += 2 + length
    if frame is None:
        return None
    bits, height, width, components = frame
    return JpegHeader(
        width=width, height=height, bits=bits, components=components, orientation=_orientation_of(exif, xmp)
    )


def _orientation_of(exif: bytes, xmp: bytes) -> int:
    """1..8. EXIF first, then XMP, as `Image.getexif` does."""
    value: object = None
    if exif:
        tags = Image.Exif()
        try:
            tags.load(_EXIF + exif)
            value = tags.get(ORIENTATION)
        except Exception:  # noqa: BLE001 - its parser raises anything on hostile bytes; the pixels are still good
            value = None
    if value is None and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[2])
    return orientation_in(value)
