"""Headers of a tar, read strictly forward.

Why not Python's `tarfile` alone: it ends in silence at a corrupt header in the middle and at a tar cut between two
members, keeps every header in memory, and cannot start at an offset. Its header parser is used, so that formats
(V7, ustar, GNU, PAX) and number encodings are its own. Nothing is ever written to disk.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from clipmill.schemas.unit.rejects import Reason

BLOCK = 512
_CHUNK_BYTES = 1 << 20
# Before one member, all together: a few kilobytes of gzip can hold any number of headers of a megabyte each.
_MAX_EXTENDED_BYTES = 1 << 20
_MAX_EXTENDED_HEADERS = 16  # the usual programs write one or two
_PAX_KEYS = frozenset({"path", "linkpath", "size", "GNU.sparse.name"})
# What archivers write beside files: GNU's lists of folders, parts of files, volume names and old long names; ACLs and
# inodes of Solaris.
_NO_FILES = frozenset({b"D", b"M", b"V", b"N", b"A", b"E", b"I"})
_ZERO = bytes(BLOCK)


class _Malformed(tarfile.HeaderError):
    """A header with a good checksum whose content makes no sense."""


class BadTar(Exception):
    """The tar ends too early or holds something that is no header. `offset`: byte in the (uncompressed) tar."""

    def __init__(self, reason: Reason, offset: int, detail: str) -> None:
        super().__init__(reason, offset, detail)
        self.reason, self.offset, self.detail = reason, offset, detail


@dataclass(frozen=True, slots=True)
class Member:
    """A header: `header_offset` is where its first block starts (extended headers included), `offset` its data.

    `link` is the target of a hard or symbolic link, which has no data of its own. Invalid UTF-8 in names comes as
    surrogates.
    """

    name: str
    header_offset: int
    offset: int
    size: int
    link: str | None = None
    sparse: bool = False


class TarReader:
    """Members of a tar from `stream`'s position, which is byte `position` of the tar.

    Read or ignore a member's data before asking for the next. Ends at the end-of-archive blocks, at `stop` (a header
    at or after it belongs to the next slice), or with BadTar. Archives put one after the other are all read. Zero
    bytes are an empty archive. Directories, devices and the like are not shown.
    """

    def __init__(self, stream: BinaryIO, *, position: int = 0, stop: int | None = None, seekable: bool = True) -> None:
        self._stream, self._position, self._stop, self._seekable = stream, position, stop, seekable
        self._start = position

    def __iter__(self) -> Iterator[Member]:
        ended = False  # an end-of-archive block was seen and no member since
        while self._stop is None or self._position < self._stop:
            header_offset = self._position
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                if not ended and (block or header_offset != 0):
                    detail = f"the tar ends at byte {self._position} without an end-of-archive mark"
                    raise BadTar(Reason.TRUNCATED, self._position, detail)
                return
            if block == _ZERO:
                ended = True
                continue
            try:
                member, next_offset = self._member(block, header_offset)
            except tarfile.HeaderError as error:
                if ended:
                    return  # padding after the end that is not zero
                raise BadTar(
                    self._not_a_header(header_offset), header_offset, f"no tar header at byte {header_offset} ({error})"
                ) from error
            ended = False
            if member is not None:
                yield member
            self._skip_to(next_offset)

    def read(self, member: Member) -> bytes:
        """All data of the member just shown. Raises BadTar where the tar ends inside it."""
        self._skip_to(member.offset)
        data = self._read(member.size)
        if len(data) < member.size:
            self._ends_inside(member.name)
        return data

    def _not_a_header(self, offset: int) -> Reason:
        return Reason.UNKNOWN_FORMAT if offset == self._start == 0 else Reason.CORRUPT

    def _ends_inside(self, name: str) -> NoReturn:
        raise BadTar(Reason.TRUNCATED, self._position, f"the tar ends at byte {self._position}, inside {name!r}")

    def _member(self, block: bytes, header_offset: int) -> tuple[Member | None, int]:
        """The member whose headers start with `block`, and where the next header is. Raises tarfile.HeaderError."""
        info, block, pax, long_name = self._extended(block)
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(k.startswith("GNU.sparse") for k in pax)
        extended = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while extended:  # further maps of an old GNU sparse file
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                self._ends_inside("a header")
            extended = block[504]
        size = _pax_size(pax, info.size)
        name = pax.get("GNU.sparse.name") or pax.get("path") or long_name or info.name
        # Links, devices and folders may state a size, but no data follows.
        is_unknown = info.type not in tarfile.SUPPORTED_TYPES
        stored = size if info.isreg() or is_unknown else 0
        next_offset = self._position + _padded(stored)
        is_file = info.isreg() or (is_unknown and info.type not in _NO_FILES)  # POSIX: other types are regular files
        if is_file or info.islnk() or info.issym():
            link = None if is_file else (pax.get("linkpath") or info.linkname)
            return Member(name, header_offset, self._position, stored, link, sparse), next_offset
        return None, next_offset

    def _extended(self, block: bytes) -> tuple[tarfile.TarInfo, bytes, dict[str, str], str | None]:
        """(header of the member itself, its block, PAX records, GNU long name) behind the extended headers."""
        pax: dict[str, str] = {}
        long_name: str | None = None
        left_bytes = _MAX_EXTENDED_BYTES
        for _ in range(_MAX_EXTENDED_HEADERS + 1):
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.size < 0:
                raise _Malformed("negative size")
            if info.type not in (b"x", b"X", b"g", b"L", b"K"):
                return info, block, pax, long_name
            left_bytes -= info.size
            if left_bytes < 0:
                raise _Malformed(f"extended headers of more than {_MAX_EXTENDED_BYTES:,} bytes before one member")
            data = self._read(_padded(info.size))
            if len(data) < _padded(info.size):
                self._ends_inside("an extended header")
            if info.type in (b"x", b"X"):
                pax.update(_pax_records(data[: info.size]))
            elif info.type == b"L":
                long_name = data[: info.size].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                self._ends_inside("a header")
        raise _Malformed(f"more than {_MAX_EXTENDED_HEADERS} extended headers before one member")

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:  # gzip's "ended before the end-of-stream marker was reached"
            detail = f"the compressed data ends at byte {self._position} of the tar"
            raise BadTar(Reason.TRUNCATED, self._position, detail) from None
        except (zlib.error, tarfile.ReadError) as error:
            raise BadTar(Reason.CORRUPT, self._position, f"after byte {self._position}: {error}") from error
        except OSError as error:
            if type(error).__name__ != "BadGzipFile":  # a checksum that is wrong; anything else is the store's
                raise
            raise BadTar(Reason.CORRUPT, self._position, f"after byte {self._position}: {error}") from error
        self._position += len(data)
        return data

    def _skip_to(self, offset: int) -> None:
        """Forward to `offset`, by a seek where the stream can."""
        if offset <= self._position:
            return
        if self._seekable:
            # The last byte is read, because a seek past the end would not show that the tar is cut.
            self._stream.seek(offset - self._position - 1, 1)
            self._position = offset - 1
        while self._position < offset:
            if not self._read(min(_CHUNK_BYTES, offset - self._position)):
                raise BadTar(Reason.TRUNCATED, self._position, f"the tar ends inside the member before byte {offset}")


def plain_name(name: str) -> str:
    """A member's name as rows spell it: without the `./` or `/` that some programs put first."""
    return name.removeprefix("./").lstrip("/")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pax_records(data: bytes) -> dict[str, str]:
    """`<length> <key>=<value>\\n` records (POSIX pax, Extended Header), those that are used here."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at] != 0:
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit() or not at + int(digits) <= len(data) or int(digits) < len(digits) + 3:
            raise _Malformed("a PAX record is malformed")
        record = data[at + len(digits) + 1 : at + int(digits) - 1]
        key, equals, value = record.partition(b"=")
        if not equals:
            raise _Malformed("a PAX record is malformed")
        name = key.decode("utf-8", "surrogateescape")
        if name in _PAX_KEYS or name.startswith("GNU.sparse"):
            records[name if name in _PAX_KEYS else "GNU.sparse"] = value.decode("utf-8", "surrogateescape")
        at += int(digits)
    return records


def _pax_size(pax: dict[str, str], otherwise: int) -> int:
    text = pax.get("size")
    if text is None:
        return otherwise
    if not text.isdecimal() or len(text) > 19:
        raise _Malformed("a PAX size is malformed")
    return int(text)
