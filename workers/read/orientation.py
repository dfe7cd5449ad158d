"""How a picture lies where its own bytes no longer say it: the source's word, and bytes that carry it.

img2dataset writes pictures anew without EXIF and without having turned them; what the orientation was stands in the
metadata beside each. `stamped` puts it back into the bytes as EXIF, so that whoever decodes them, here or elsewhere,
turns them as it turns any photograph. What EXIF numbers 1..8 mean: `decode.turn`.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from clipmill.schemas.job.config import Source

# The words of the library exifread, by which img2dataset keeps what it read.
_WORDS = {
    "Horizontal (normal)": 1,
    "Mirrored horizontal": 2,
    "Rotated 180": 3,
    "Mirrored vertical": 4,
    "Mirrored horizontal then rotated 90 CCW": 5,
    "Rotated 90 CW": 6,
    "Mirrored horizontal then rotated 90 CW": 7,
    "Rotated 90 CCW": 8,
}
_IN_EXIF = "Image Orientation"
_EXIF, _XMP, _PNG = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"\x89PNG\r\n\x1a\n"
_SAYS = b"tiff:Orientation"
_APP0, _APP1 = 0xE0, 0xE1


def path_of(source: Source) -> str:
    """The field that says it; empty where the job does not ask."""
    return (source.orientation or "").removeprefix("json:")


def stated(value: Any) -> int | None:
    """1..8 by a number, exifread's words, or img2dataset's `exif` (JSON text or an object that has them); None where it
    says nothing. Raises ValueError for what is none of these."""
    if isinstance(value, bytes):  # text of a parquet file that does not call it so
        value = value.decode()
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        value = value.get(_IN_EXIF)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value is None or value in ("", 0) or value != value:  # NaN, by which pandas means nothing
        return None
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value in range(1, 9):
        return int(value)
    raise ValueError(f"{value!r:.60} is no EXIF orientation")


def lacking(image: bytes) -> bool:
    """Whether these are bytes that could say how they lie and do not: JPEG, PNG or WebP without EXIF."""
    if image.startswith(b"\xff\xd8"):
        return not any(_says(marker, segment) for marker, segment in _segments(image))
    if image.startswith(_PNG):
        return not any(name == b"eXIf" or (name[1:] in (b"TXt", b"EXt") and _raw(data)) for name, data in _png(image))
    if _is_webp(image):
        names = [name for name, _ in _webp(image)]
        return not {b"EXIF", b"XMP "} & set(names) and names[:1] in ([b"VP8 "], [b"VP8L"], [b"VP8X"])
    return False


def stamped(image: bytes, orientation: int | None) -> bytes:
    """The picture's bytes with the orientation, 1..8, as EXIF; as they are for None, and for what cannot carry it.

    What is cut off stays so: with a chunk at its end, or a length that fits, its decoder would name another reason."""
    if orientation is None or not lacking(image) or _is_cut(image):
        return image
    # TIFF: byte order, the first directory at 8, which has one entry, tag 0x0112, SHORT, one value; no directory more.
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    if image.startswith(b"\xff\xd8"):
        segment = struct.pack(">BBH", 0xFF, _APP1, 2 + len(_EXIF) + len(exif)) + _EXIF + exif
        at = 2
        if image[2:4] == bytes((0xFF, _APP0)):  # JFIF comes first
            at = 4 + int.from_bytes(image[4:6], "big")
        return image[:at] + segment + image[at:]
    if image.startswith(_PNG):
        chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        at = len(_PNG) + 25  # behind IHDR, which is always 13 bytes
        return image[:at] + chunk + image[at:]
    try:
        return _webp_with(image, exif)
    except (IndexError, OverflowError, struct.error):  # cut off: its decoder says so
        return image


def _says(marker: int, segment: bytes) -> bool:
    return marker == _APP1 and (segment.startswith(_EXIF) or (segment.startswith(_XMP) and _SAYS in segment))


def _segments(image: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of a JPEG's segments up to its first scan (ITU-T T.81, B.1)."""
    at = 2
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker = image[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (0xDA, 0xD9):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without content
            at += 2
            continue
        length = int.from_bytes(image[at + 2 : at + 4], "big")
        yield marker, image[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _png(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of a PNG's chunks."""
    at = len(_PNG)
    while at + 12 <= len(image):
        length = int.from_bytes(image[at : at + 4], "big")
        yield image[at + 4 : at + 8], image[at + 8 : at + 8 + min(length, 64)]
        at += 12 + length


def _raw(text: bytes) -> bool:
    """Whether a text of a PNG is where EXIF or XMP are kept."""
    return text.startswith((b"Raw profile type ", b"XML:com.adobe.xmp\0"))


def _is_cut(image: bytes) -> bool:
    """Whether a PNG ends within its IHDR, or a WebP before the length that it states."""
    if image.startswith(_PNG):
        return len(image) < len(_PNG) + 25
    return _is_webp(image) and len(image) < 8 + int.from_bytes(image[4:8], "little")


def _is_webp(image: bytes) -> bool:
    return image[:4] == b"RIFF" and image[8:12] == b"WEBP"


def _webp(image: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, where its content begins) of a WebP's chunks."""
    at, end = 12, min(len(image), 8 + int.from_bytes(image[4:8], "little"))
    while at + 8 <= end:
        length = int.from_bytes(image[at + 4 : at + 8], "little")
        yield image[at : at + 4], at + 8
        at += 8 + length + length % 2


def _webp_with(image: bytes, exif: bytes) -> bytes:
    """A WebP with EXIF, for which it must be an extended one (VP8X): flags, and the canvas's sides less one."""
    end = 8 + int.from_bytes(image[4:8], "little")
    body = image[12:end]
    name, at = next(_webp(image))
    if name == b"VP8X":
        body = body[:8] + bytes((body[8] | 0x08,)) + body[9:]
    else:
        alpha = 0
        if name == b"VP8L":
            bits = int.from_bytes(image[at + 1 : at + 5], "little")
            width, height, alpha = bits & 0x3FFF, (bits >> 14) & 0x3FFF, (bits >> 28) & 1
        else:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", image, at + 6))
            width, height = width - 1, height - 1
        sides = width.to_bytes(3, "little") + height.to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<IB3x", 10, 0x08 | alpha << 4) + sides + body
    body += b"\0" * (len(body) % 2) + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
