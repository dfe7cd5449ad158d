"""Whether a picture that no decoder took ends before it should, by what its own file says of its parts.

Pillow finds out by decoding, and only of some formats: a cut AVIF or a TIFF whose directory came last it does not
recognise at all, a cut WebP or JPEG 2000 it calls broken. Looked at only after it refused. How files are laid out: PNG
section 5, JPEG T.81 B.1, GIF89a, TIFF 6.0 section 2, RIFF, ISO/IEC 14496-12 section 4.2, JPEG 2000 T.800 annex I.
"""

import struct
from collections.abc import Callable

from clipmill.workers.decode.sniff import ending

_MAX_STEPS = 100_000  # parts that are looked at: a file can be made of one-byte parts
_MAX_PAGES = 32  # of a TIFF
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_DATA = ((273, 279), (324, 325))  # (offsets, sizes) of strips and of tiles
_END_OF_CODESTREAM = b"\xff\xd9"


class _Ends(Exception):
    """The file says that there is more."""


class _TooMany(Exception):
    """Steps."""


class _File:
    def __init__(self, image: bytes) -> None:
        self.image, self.steps = image, 0

    def part(self, start: int, size: int) -> bytes:
        self.reach(start + size)
        return self.image[start : start + size]

    def reach(self, end: int) -> None:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise _TooMany
        if end > len(self.image):
            raise _Ends

    def number(self, kind: str, start: int) -> int:
        return int(struct.unpack(kind, self.part(start, struct.calcsize(kind)))[0])


def ends_early(image: bytes) -> bool:
    """False where the format is not known, says nothing of its length, or all that it says is there."""
    walk = _WALKS.get(ending(image))
    try:
        if walk is not None:
            walk(_File(image))
    except _Ends:
        return True
    except _TooMany:
        pass
    return False


def _png(file: _File) -> None:
    at, name = 8, b""
    while name != b"IEND":
        size, name = file.number(">I", at), file.part(at + 4, 4)
        at += 12 + size
        file.reach(at)


def _jpeg(file: _File) -> None:
    """As far as the first scan: what follows says nothing of its length, and decoders see it."""
    at = 2
    while file.part(at, 2)[0] == 0xFF:
        marker = file.image[at + 1]
        if marker == 0xD9:
            return
        if marker == 0xDA:
            file.reach(at + 2 + file.number(">H", at + 2))
            return
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + file.number(">H", at + 2)


def _gif(file: _File) -> None:
    """As far as the first picture."""
    at = 13 + _colours(file.part(0, 13)[10])
    while True:
        kind = file.part(at, 1)
        if kind == b"!":
            at = _after_blocks(file, at + 2)
        elif kind == b",":
            _after_blocks(file, at + 11 + _colours(file.part(at, 10)[9]))
            return
        else:
            return


def _colours(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(file: _File, at: int) -> int:
    while size := file.part(at, 1)[0]:
        at += 1 + size
    return at + 1


def _bmp(file: _File) -> None:
    """Headers, palette and what was packed: Pillow sees where plain pixels are missing."""
    header, start = file.number("<I", 14), file.number("<I", 10)
    file.reach(max(14 + header, start))
    if header >= 40 and file.number("<I", 30) in (1, 2):  # run-length encoded
        file.reach(start + file.number("<I", 34))


def _ico(file: _File) -> None:
    for entry in range(file.number("<H", 4)):
        size, start = struct.unpack("<II", file.part(6 + 16 * entry + 8, 8))
        file.reach(start + size)


def _webp(file: _File) -> None:
    file.reach(8 + file.number("<I", 4))


def _boxes(file: _File, head: bytes, data: tuple[bytes, ...]) -> int:
    """The outermost ones, until both are met, in whatever order. Where the data end."""
    at, end, has_head = 0, 0, False
    while not (end and has_head):
        size, name = file.number(">I", at), file.part(at + 4, 4)
        if size == 1:
            size = file.number(">Q", at + 8)
        at = at + size if size >= 8 else len(file.image)  # 0: to the end of the file
        file.reach(at)
        has_head = has_head or name == head
        end = end or (at if name in data else 0)
    return end


def _iso(file: _File) -> None:
    _boxes(file, b"meta", (b"mdat", b"idat"))


def _jp2(file: _File) -> None:
    _codestream(file, _boxes(file, b"jp2h", (b"jp2c",)))


def _j2k(file: _File) -> None:
    _codestream(file, len(file.image))


def _codestream(file: _File, end: int) -> None:
    if file.image[end - 2 : end] != _END_OF_CODESTREAM:
        raise _Ends


def _tiff(file: _File) -> None:
    order = "<" if file.image[:2] == b"II" else ">"
    is_big = 43 in file.image[2:4]
    word, long, entry_size, head = ("Q", "Q", 20, 8) if is_big else ("H", "I", 12, 4)
    at = file.number(order + long, head)
    for _ in range(_MAX_PAGES):
        if not at:
            return
        count = file.number(order + word, at)
        at += struct.calcsize(word)
        file.reach(at + count * entry_size)
        found = {}
        for start in range(at, at + count * entry_size, entry_size):
            tag, kind = struct.unpack(order + "HH", file.part(start, 4))
            number, where = file.number(order + long, start + 4), start + 4 + struct.calcsize(long)
            size = _TIFF_BYTES.get(kind, 0) * number
            if size > struct.calcsize(long):
                where = file.number(order + long, where)
            file.reach(where + size)
            found[tag] = (where, number, {2: "H", 4: "I", 8: "Q"}.get(_TIFF_BYTES.get(kind, 0), ""))
        for offsets, sizes in _TIFF_DATA:
            for start, length in zip(*(_values(file, order, found.get(tag)) for tag in (offsets, sizes)), strict=False):
                file.reach(start + length)
        at = file.number(order + long, at + count * entry_size)


def _values(file: _File, order: str, field: tuple[int, int, str] | None) -> tuple[int, ...]:
    if field is None or not field[2]:
        return ()
    where, number, kind = field
    if number > _MAX_STEPS:
        raise _TooMany
    return struct.unpack(f"{order}{number}{kind}", file.part(where, number * struct.calcsize(kind)))


_WALKS: dict[str, Callable[[_File], None]] = {
    "png": _png,
    "jpg": _jpeg,
    "gif": _gif,
    "bmp": _bmp,
    "ico": _ico,
    "webp": _webp,
    "avif": _iso,
    "heic": _iso,
    "jp2": _jp2,
    "j2k": _j2k,
    "tif": _tiff,
}
