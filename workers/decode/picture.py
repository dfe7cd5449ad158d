"""Untrusted bytes to RGB pixels: a fast road for JPEG, Pillow for the rest.

The result is what `ImageOps.exif_transpose`, alpha on white and `convert("RGB")` of Pillow give, except that a large
JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (the DCT scales that libjpeg computes exactly) where the caller says
which size it needs. Thread-safe; libjpeg and Pillow's decoders run without the GIL. Nothing is written to disk.

HWC: height, width, channels (RGB).
"""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode import extra
from clipmill.workers.decode import png as decode_png
from clipmill.workers.decode.cut import ends_early
from clipmill.workers.decode.jpeg import decode_jpeg, read_jpeg_header, whole_cmyk
from clipmill.workers.decode.rgb import to_rgb_HWC
from clipmill.workers.decode.turn import ORIENTATION, orientation_in, swaps_sides, turn_upright

Image.init()  # Pillow registers its formats lazily and without a lock; many threads decode here

# Pillow knows some fifty formats, one of which (EPS) starts Ghostscript. These are the ones that hold photographs,
# as far as this build of Pillow has them. JPEG stands for MPO too.
FORMATS = tuple(
    name
    for name in (
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "DIB",
        "TIFF",
        "ICO",
        "PPM",
        "AVIF",
        "JPEG2000",
        *extra.register(),
    )
    if name in Image.OPEN
)

THUMBNAIL_PX = 256

_TIFF_KIND, _REDUCED, _MASK = 254, 0b001, 0b100  # NewSubfileType (TIFF 6.0, section 8) and its bits
_TIFF_OLD_KIND, _OLD_REDUCED = 255, 2  # SubfileType
_MAX_PAGES = 32  # of a TIFF, looked through for the picture

# Pillow's bound is 1 MB, which profiles of presses and the notes of picture generators pass. What one file may hold
# unpacked in all stays bounded by Pillow's MAX_TEXT_MEMORY, 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`stored_HWC` uint8 RGB, still to be turned by `orientation` (other than 1 only where a JPEG was scaled while
    decoding). `width` and `height` of the upright original in pixels: larger than the pixels where it was scaled.

    A side that the scale does not divide ends in a pixel that lies partly outside. Resized as it is stored, that is
    at the end, where the filter expects it; turned first, it would be at the start and shift the whole picture.
    """

    stored_HWC: npt.NDArray[np.uint8]
    orientation: int = 1
    width: int
    height: int

    @property
    def pixels_HWC(self) -> npt.NDArray[np.uint8]:
        """Upright."""
        return turn_upright(self.stored_HWC, self.orientation)


def decode(image: bytes, limits: Limits, *, target_px: int | None) -> Decoded:
    """Pixels of the first frame. `target_px`: the model's input size (its larger side); None decodes at full size.

    Raises BadImage with empty, too_many_bytes, too_many_pixels, unknown_format, truncated or corrupt. Sizes are
    checked against `limits` from the header, before anything is decoded.
    """
    if not image:
        raise BadImage(Reason.EMPTY, "zero bytes")
    if len(image) > limits.max_image_bytes:
        raise BadImage(Reason.TOO_MANY_BYTES, f"{len(image)} bytes, the limit is {limits.max_image_bytes}")
    _quiet_pillow()
    if image[:2] == b"\xff\xd8" and (header := read_jpeg_header(image)) is not None:
        _check_pixels(header.width, header.height, limits)
        if not header.is_fast:
            return _decode_with_pillow(whole_cmyk(image, header), limits)
        stored_HWC = decode_jpeg(image, header, target_px)
        if stored_HWC is not None:
            return _decoded(stored_HWC, header.orientation, header.width, header.height)
    return _decode_with_pillow(image, limits)


def _decoded(stored_HWC: npt.NDArray[np.uint8], orientation: int, width: int, height: int) -> Decoded:
    """`width`, `height`: of the original as stored. Pixels that were not scaled are turned at once."""
    if stored_HWC.shape[:2] == (height, width):
        stored_HWC, orientation, turned = turn_upright(stored_HWC, orientation), 1, orientation
    else:
        turned = orientation
    if swaps_sides(turned):
        width, height = height, width
    return Decoded(stored_HWC=stored_HWC, orientation=orientation, width=width, height=height)


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


# --- everything else -------------------------------------------------------------------------------------------------


def _quiet_pillow() -> None:
    """Pillow's warnings say nothing that a reject does not. `catch_warnings` is not thread-safe, so the filter is
    put in once and stays; it is looked for on each call because a test runner resets the list."""
    if not any(action == "ignore" and module is _PIL_MODULES for action, _, _, module, _ in warnings.filters):
        warnings.filters.insert(0, ("ignore", None, Warning, _PIL_MODULES, 0))  # type: ignore[attr-defined]
        warnings._filters_mutated()  # type: ignore[attr-defined]


_PIL_MODULES = re.compile(r"PIL\.")


def _decode_with_pillow(image: bytes, limits: Limits) -> Decoded:
    if limits.max_pixels != Image.MAX_IMAGE_PIXELS:
        # Process-wide, but so is the job's limit. It also guards what is nested (a PNG inside an ICO).
        Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        return _open_with_pillow(image, limits)
    except BadImage:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes provoke, and it is the file's fault
        refusal = _refusal(error, limits)
        if refusal.reason == Reason.UNKNOWN_FORMAT and (known := extra.missing_for(image)):
            refusal = BadImage(Reason.UNKNOWN_FORMAT, known)
        elif refusal.reason in (Reason.UNKNOWN_FORMAT, Reason.CORRUPT) and ends_early(image):
            refusal = BadImage(Reason.TRUNCATED, "the file ends before its picture does")
        if image.startswith(decode_png.SIGNATURE):
            whole = decode_png.without_damaged_chunks(image)
            if whole is not None:
                return _decode_with_pillow(whole, limits)
        raise refusal from error


def _open_with_pillow(image: bytes, limits: Limits) -> Decoded:
    """Raises BadImage for what breaks the limits, and whatever Pillow raises."""
    with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
        _check_pixels(*picture.size, limits)
        if picture.format == "TIFF":
            _seek_the_picture(picture)
            _check_pixels(*picture.size, limits)
        picture.load()
        _check_pixels(*picture.size, limits)
        orientation = _orientation_of_picture(picture)
        pixels_HWC = to_rgb_HWC(picture)
    return _decoded(pixels_HWC, orientation, pixels_HWC.shape[1], pixels_HWC.shape[0])


def _seek_the_picture(picture: Image.Image) -> None:
    """To the first page of a TIFF that is neither a reduced image nor a mask; where all are, to the largest."""
    areas: list[int] = []
    for page in range(_MAX_PAGES):
        try:
            picture.seek(page)
        except EOFError:
            break
        tags = getattr(picture, "tag_v2", {})
        kind = tags.get(_TIFF_KIND, 0)
        kind = kind if isinstance(kind, int) else 0
        if not kind & (_REDUCED | _MASK) and tags.get(_TIFF_OLD_KIND) != _OLD_REDUCED:
            return
        areas.append(0 if kind & _MASK else picture.width * picture.height)
    picture.seek(areas.index(max(areas)))


def _orientation_of_picture(picture: Image.Image) -> int:
    """1..8, read after `load`: a TIFF is turned by its own loader, which then forgets the tag."""
    try:
        return orientation_in(picture.getexif().get(ORIENTATION))
    except Exception:  # noqa: BLE001 - a broken EXIF block is no reason to lose the picture
        return 1


def _refusal(error: Exception, limits: Limits) -> BadImage:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return BadImage(Reason.UNKNOWN_FORMAT, "no decoder recognises the bytes")
    if isinstance(error, Image.DecompressionBombError):
        size = re.search(r"\d+", text)  # Pillow compares it with twice the limit, and says that
        return BadImage(Reason.TOO_MANY_PIXELS, f"{size[0] if size else 0} pixels, the limit is {limits.max_pixels}")
    if isinstance(error, EOFError) or re.search("truncated|reached eof|not enough image data", text.lower()):
        return BadImage(Reason.TRUNCATED, text)
    if isinstance(error, MemoryError):
        # Linux overcommits: an allocation that fails was absurd, and the header's size was already within bounds.
        return BadImage(Reason.CORRUPT, "asks for an impossible amount of memory")
    return BadImage(Reason.CORRUPT, text)


__all__ = ["Decoded", "decode", "thumbnail"]
