"""A zip archive by its directory, which stands at its end: members by ranged reads, nothing is unpacked to a disk.

Python's zipfile parses it. What it leaves open is closed here, because an archive is a stranger's:

- the directory is at most MAX_DIRECTORY_BYTES, so that what it becomes in memory has a bound;
- of a member at most as many bytes are unpacked as the caller allows, whatever its header says;
- only stored and deflated members are unpacked: zipfile unpacks the other methods without a bound;
- members whose bytes reach into the next are refused, so that a small archive cannot be unpacked to more than
  deflate's 1,032 times its size.
"""

import io
import itertools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from clipmill.schemas.errors import WrongFormat
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.rejects import Reason
from clipmill.workers.read.tars.tar import plain_name
from clipmill.workers.store.storage import open_stream

MAX_DIRECTORY_BYTES = 64_000_000  # some 600,000 members of usual names; in memory seven times as much
ZIP = b"PK"  # how one begins; what runs by itself and unpacks is not read
NEAR_BYTES = 8_000_000  # a text so near its picture is read on the way, one further off by a stream of its own
_HEADER_BYTES = 30  # of a member, its name and data beside
_ENCRYPTED, _PATCHED = 0x41, 0x20  # bits of the flags: encrypted weakly or strongly; a patch of another member
_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES encryption"}
_BAD = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, zlib.error, EOFError)


class BadMember(Exception):
    """One member that cannot be had."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class _Roads(io.BufferedIOBase):
    """Two streams over one archive: zipfile seeks before each read, so that one may take the other's place between
    two members. Until the directory is read, no read is larger than it may be."""

    def __init__(self, straight: BinaryIO, aside: BinaryIO) -> None:
        super().__init__()
        self._straight, self._aside = straight, aside
        self.road = straight
        self.bounded = True

    def take(self, *, aside: bool) -> None:
        self.road = self._aside if aside else self._straight

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.road.seek(offset, whence)

    def tell(self) -> int:
        return self.road.tell()

    def read(self, size: int | None = -1) -> bytes:
        wanted = -1 if size is None else size
        if self.bounded and wanted > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"its directory takes {wanted:,} bytes, and at most {MAX_DIRECTORY_BYTES:,} are read"
            )
        return self.road.read(wanted)


class Archive:
    """An open archive. `members`: its files, in the order of their bytes; folders are none."""

    def __init__(self, roads: _Roads, uri: str) -> None:
        """Raises WrongFormat."""
        self._roads = roads
        try:
            if roads.read(2) != ZIP:
                raise zipfile.BadZipFile("it does not begin as one")
            self._file = zipfile.ZipFile(cast(BinaryIO, roads))
        except _BAD as error:
            hint = "is it whole? Pack it again, or unpack it into a folder, for source.format: files"
            raise WrongFormat(f"{uri} is no readable zip archive: {str(error)[:150]}", hint) from error
        roads.bounded = False
        files = [info for info in self._file.infolist() if not (info.is_dir() and info.file_size == 0)]
        self.members = sorted(files, key=lambda info: info.header_offset)
        self._overlapping = {id(info) for info in _overlapping(self.members)}

    def why_not(self, info: zipfile.ZipInfo, max_bytes: int) -> BadMember | None:
        """What is wrong with a member as far as the directory says it."""
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind and kind != stat.S_IFREG:
            return BadMember(Reason.NO_IMAGE, "a link or a device, without bytes of its own")
        if info.flag_bits & _ENCRYPTED:
            return BadMember(Reason.UNKNOWN_FORMAT, "the member is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _PATCHED:
            method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
            return BadMember(Reason.UNKNOWN_FORMAT, f"packed with {method}; stored and deflated members are read")
        if info.file_size > max_bytes or info.compress_size > 2 * max_bytes:
            largest = max(info.file_size, info.compress_size)
            return BadMember(Reason.TOO_MANY_BYTES, f"{largest:,} bytes, the limit is {max_bytes:,}")
        if id(info) in self._overlapping:
            return BadMember(Reason.CORRUPT, "its bytes overlap those of the next member")
        return None

    def read(self, info: zipfile.ZipInfo, max_bytes: int, *, aside: bool = False) -> tuple[bytes, int | None]:
        """(a member's bytes, the offset in the archive at which they lie as they are; None where they are deflated).

        `aside`: it lies far from where reading goes on. Raises BadMember; what a store raises passes as it is.
        """
        if (bad := self.why_not(info, max_bytes)) is not None:
            raise bad
        self._roads.take(aside=aside)
        try:
            with self._file.open(info) as member:
                start = self._roads.tell()
                data = member.read(max_bytes + 1)
        except EOFError as error:
            raise BadMember(Reason.TRUNCATED, "the archive ends inside it") from error
        except _BAD as error:
            raise BadMember(Reason.CORRUPT, str(error)[:200]) from error
        if len(data) != info.file_size:  # it cannot be more: zipfile cuts off there, and then its sum is wrong
            raise BadMember(Reason.CORRUPT, f"{len(data):,} bytes where the directory says {info.file_size:,}")
        return data, start if info.compress_type == zipfile.ZIP_STORED else None


def _overlapping(members: list[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Those that end behind the beginning of the next."""
    for info, after in itertools.pairwise(members):
        if info.header_offset + _HEADER_BYTES + len(info.orig_filename) + info.compress_size > after.header_offset:
            yield info


@contextmanager
def open_archive(uri: str, storage: Storage, *, expected_etag: str = "") -> Iterator[Archive]:
    """Raises WrongFormat for what is no zip, or has too large a directory; and as `open_stream` does."""
    with (
        open_stream(uri, storage, expected_etag=expected_etag, straight_on=True) as straight,
        open_stream(uri, storage, expected_etag=expected_etag) as aside,
    ):
        yield Archive(_Roads(straight, aside), uri)


def name_of(info: zipfile.ZipInfo) -> str:
    """A member's name as rows spell it."""
    return plain_name(info.filename)
