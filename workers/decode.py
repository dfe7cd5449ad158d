"""Untrusted bytes to RGB pixels: a fast road for JPEG, Pillow for the rest.

The result is what `ImageOps.exif_transpose`, alpha on white and `convert("RGB")` of Pillow give, except that a large
JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (the DCT scales that libjpeg computes exactly) where the caller says
which size it needs. Thread-safe; libjpeg and Pillow's decoders run without the GIL. Nothing is written to disk.

HWC: height, width, channels (RGB).
"""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from schemas.config import Limits
from schemas.rejects import Reason
from schemas.samples import BadImage
from workers.rgb import to_rgb_HWC

Image.init()  # Pillow registers its formats lazily and without a lock; many threads decode here

# Pillow knows some fifty formats, one of which (EPS) starts Ghostscript. These are the ones that hold photographs,
# as far as this build of Pillow has them. JPEG stands for MPO too.
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "ICO", "PPM", "AVIF", "JPEG2000")
    if name in Image.OPEN
)

# A JPEG is scaled down while decoding only as far as its shortest side stays at or above this, so that thumbnails
# (256) and small models see the same pixels whether or not the other is wanted.
MIN_SCALED_PX = 256
DCT_HEADROOM = 2  # and at or above this many times the model's size, so that the resize filter still has its say

THUMBNAIL_PX = 256

_ORIENTATION = 0x0112
_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)([0-9])')  # Pillow's own pattern
_EXIF = b"Exif\x00\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`pixels_HWC` uint8 RGB, upright. `width` and `height` of the original in pixels, upright as well: larger than
    the pixels where the JPEG was scaled while decoding."""

    pixels_HWC: npt.NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _JpegHeader:
    width: int
    height: int
    bits: int
    components: int
    orientation: int


def decode(image: bytes, limits: Limits, *, target_px: int | None) -> Decoded:
    """Pixels of the first frame. `target_px`: the model's input size (its larger side); None decodes at full size.

    Raises BadImage with empty, too_many_bytes, too_many_pixels, unknown_format, truncated or corrupt. Sizes are
    checked against `limits` from the header, before anything is decoded.
    """
    if not image:
        raise BadImage(Reason.EMPTY, "zero bytes")
    if len(image) > limits.max_image_bytes:
        raise BadImage(Reason.TOO_MANY_BYTES, f"{len(image)} bytes, the limit is {limits.max_image_bytes}")
    if image[:2] == b"\xff\xd8":
        header = _read_jpeg_header(image)
        if header is not None and header.bits == 8 and header.components in (1, 3):
            _check_pixels(header.width, header.height, limits)
            decoded = _decode_jpeg(image, header, target_px)
            if decoded is not None:
                return decoded
    return _decode_with_pillow(image, limits)


def thumbnail(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    """WebP, longest side at most 256 pixels, never enlarged."""
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, reducing_gap=3.0)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=80, method=2)
    return encoded.getvalue()


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width <= 0 or height <= 0:
        raise BadImage(Reason.CORRUPT, f"{width}x{height} pixels")
    if width * height > limits.max_pixels:
        raise BadImage(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels, the limit is {limits.max_pixels}")


# --- JPEG ------------------------------------------------------------------------------------------------------------


def _decode_jpeg(image: bytes, header: _JpegHeader, target_px: int | None) -> Decoded | None:
    """The fast road; None where Pillow shall decide: libjpeg complains about something it could recover from."""
    divisor = _dct_divisor(min(header.width, header.height), target_px)
    try:
        pixels_HWC = simplejpeg.decode_jpeg(
            image, "RGB", min_height=-(-header.height // divisor), min_width=-(-header.width // divisor)
        )
    except ValueError:
        return None
    upright_HWC = _turn_upright(pixels_HWC, header.orientation)
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    return Decoded(pixels_HWC=upright_HWC, width=width, height=height)


def _dct_divisor(shortest_px: int, target_px: int | None) -> int:
    if target_px is not None:
        needed_px = max(DCT_HEADROOM * target_px, MIN_SCALED_PX)
        for divisor in (8, 4, 2):
            if shortest_px // divisor >= needed_px:
                return divisor
    return 1


def _read_jpeg_header(image: bytes) -> _JpegHeader | None:
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
    return _JpegHeader(
        width=width, height=height, bits=bits, components=components, orientation=_orientation_of(exif, xmp)
    )


def _orientation_of(exif: bytes, xmp: bytes) -> int:
    """1..8. EXIF first, then XMP, as `Image.getexif` does."""
    value: object = None
    if exif:
        tags = Image.Exif()
        try:
            _quiet_pillow()
            tags.load(_EXIF + exif)
            value = tags.get(_ORIENTATION)
        except Exception:  # noqa: BLE001 - its parser raises anything on hostile bytes; the pixels are still good
            value = None
    if value is None and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[2])
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn_upright(pixels_HWC: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """EXIF 2.3 table 6: how row 0 and column 0 of the stored image lie in the scene."""
    if orientation == 1:
        return pixels_HWC
    turned = {
        2: pixels_HWC[:, ::-1],
        3: pixels_HWC[::-1, ::-1],
        4: pixels_HWC[::-1],
        5: pixels_HWC.transpose(1, 0, 2),
        6: np.rot90(pixels_HWC, -1),
        7: pixels_HWC[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels_HWC, 1),
    }[orientation]
    return np.ascontiguousarray(turned)


# --- everything else -------------------------------------------------------------------------------------------------


def _quiet_pillow() -> None:
    """Pillow's warnings say nothing that a reject does not. `catch_warnings` is not thread-safe, so the filter is
    put in once and stays; it is looked for on each call because a test runner resets the list."""
    if not any(action == "ignore" and module is _PIL_MODULES for action, _, _, module, _ in warnings.filters):
        warnings.filters.insert(0, ("ignore", None, Warning, _PIL_MODULES, 0))  # type: ignore[attr-defined]
        warnings._filters_mutated()  # type: ignore[attr-defined]


_PIL_MODULES = re.compile(r"PIL\.")


def _decode_with_pillow(image: bytes, limits: Limits) -> Decoded:
    _quiet_pillow()
    if limits.max_pixels != Image.MAX_IMAGE_PIXELS:
        # Process-wide, but so is the job's limit. It also guards what is nested (a PNG inside an ICO).
        Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            _check_pixels(*picture.size, limits)
            picture.load()
            _check_pixels(*picture.size, limits)
            orientation = _orientation_of_picture(picture)
            pixels_HWC = to_rgb_HWC(picture)
    except BadImage:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes provoke, and it is the file's fault
        raise _refusal(error) from error
    upright_HWC = _turn_upright(pixels_HWC, orientation)
    return Decoded(pixels_HWC=upright_HWC, width=upright_HWC.shape[1], height=upright_HWC.shape[0])


def _orientation_of_picture(picture: Image.Image) -> int:
    """1..8, read after `load`: a TIFF is turned by its own loader, which then forgets the tag."""
    try:
        value = picture.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - a broken EXIF block is no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _refusal(error: Exception) -> BadImage:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return BadImage(Reason.UNKNOWN_FORMAT, "no decoder recognises the bytes")
    if isinstance(error, Image.DecompressionBombError):
        return BadImage(Reason.TOO_MANY_PIXELS, text)
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return BadImage(Reason.TRUNCATED, text)
    if isinstance(error, MemoryError):
        # Linux overcommits: an allocation that fails was absurd, and the header's size was already within bounds.
        return BadImage(Reason.CORRUPT, "asks for an impossible amount of memory")
    return BadImage(Reason.CORRUPT, text)


__all__ = ["Decoded", "decode", "thumbnail"]
