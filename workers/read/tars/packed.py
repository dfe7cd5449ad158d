"""Compressed tars, recognised by their first bytes, as one forward stream.

gzip by the standard library, which checks its sums; zstd, bzip2 and LZ4 by Arrow, which is here anyway and reads
several frames put one after the other, as parallel packers write them. xz is not read: a stream may ask for 4 GB.
"""

import gzip
from typing import Any, BinaryIO, cast

from clipmill.schemas.errors import WrongFormat

_GZIP = b"\x1f\x8b"
_ARROW = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_REFUSED = {
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ\0": "compressed with xz",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
}
ARCHIVES = (".zip", ".7z", ".rar", ".xz", ".txz")  # names that say the same
READABLE = (
    "plain tars and tars compressed with gzip, zstd, bzip2 or lz4 are read, and zip archives with source.format: zip"
)


def unpack(stream: BinaryIO, uri: str, *, start: int = 0) -> tuple[BinaryIO, bool]:
    """(the tar's bytes from `start`, whether they were compressed). Raises WrongFormat for another kind of archive."""
    if start:
        return stream, False  # a slice: only plain tars are cut
    magic = stream.read(6)
    stream.seek(0)
    for known, name in _REFUSED.items():
        if magic.startswith(known):
            raise WrongFormat(f"{uri} is {name}, not a tar", f"pack it again: {READABLE}")
    if magic.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream)), True
    for known, codec in _ARROW.items():
        if magic.startswith(known):
            return cast(BinaryIO, _Unpacked(stream, codec)), True
    return stream, False


class _Unpacked:
    """What Arrow unpacks. Damage is told as `tarfile` and `gzip` tell it; what the store raises passes as it is."""

    def __init__(self, stream: BinaryIO, codec: str) -> None:
        import pyarrow as pa

        self._codec = codec
        self._plain: Any = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec)

    def read(self, size: int = -1) -> bytes:
        """Raises EOFError where the stream is cut, tarfile.ReadError where it is damaged."""
        import tarfile

        try:
            return bytes(self._plain.read(None if size < 0 else size))
        except OSError as error:
            if type(error) is not OSError or error.errno is not None:  # Arrow's own have neither
                raise
            if "truncated" in str(error).lower():
                raise EOFError(str(error)) from error
            raise tarfile.ReadError(f"{self._codec}: {str(error)[:150]}") from error
