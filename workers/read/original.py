"""The bytes of one row's image, from what the row says of it: one ranged GET wherever the row knows its byte range.

For looking at rows one at a time (verify, the page, export); many at once are read by `again`, and whole units by the
readers of their formats. Whether the place may be read at all is not decided here, see `jobs.table.originals`.
"""

import gzip
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import xxhash

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.read.folders.archive import ZIP, BadMember, name_of, open_archive
from clipmill.workers.read.tables.columns import holds_bytes, usual_rank
from clipmill.workers.read.tables.lance_table import address_of
from clipmill.workers.read.tables.parquet import raise_if_the_stores
from clipmill.workers.read.tars.packed import unpack
from clipmill.workers.read.tars.tar import BadTar, TarReader, plain_name
from clipmill.workers.store.errors import TooManyBytes, as_user_error
from clipmill.workers.store.storage import StoreUnavailable, get_bytes, open_stream, quote

MAX_BYTES = 50_000_000
_ROWS_AT_ONCE = 32  # of parquet images in memory beside the page being decoded
_AGAIN = "the source changed; run `clipmill embed` again"


class NotTheBytes(UserError):
    """There are bytes at the place, but not those that the row was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row's image is: its columns `uri`, `image_offset`, `image_size` (bytes; null inside gzip and parquet)
    and `image_hash`, the xxh3-128 of the encoded bytes."""

    uri: str
    offset: int | None
    size: int | None
    image_hash: str


def fetch_image(place: Place, storage: Storage, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The encoded bytes the row was made from, and no others: whoever writes a row's `uri` cannot know the hash of
    what they never saw, so nothing unknown to them leaves this way.

    Raises NotTheBytes; UserError where the object is gone, refused, damaged, larger than `max_bytes`, or its store is
    away. A member of a compressed tar needs the tar read up to it; a parquet row its row group, whose columns of bytes
    are told apart by the hash.
    """
    found = False
    for data in _told(place, storage, max_bytes):
        if xxhash.xxh3_128_hexdigest(data) == place.image_hash:
            return data
        found = True
    if found:
        raise NotTheBytes(f"the bytes at {place.uri} are no longer those it was made from", _AGAIN)
    raise UserError(f"{place.uri} is not there any more", _AGAIN)


def fetch_any(uri: str, storage: Storage, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The likeliest bytes at a place of which nothing else is known, such as a reject's. Raises as `fetch_image`."""
    place = Place(uri=uri, offset=None, size=None, image_hash="")
    found = next(_told(place, storage, max_bytes), None)
    if found is None:
        raise UserError(f"{uri} is not there any more", _AGAIN)
    return found


def _told(place: Place, storage: Storage, max_bytes: int) -> Iterator[bytes]:
    """The candidates, with everything that may go wrong on the way as a sentence."""
    try:
        yield from _candidates(place, storage, max_bytes)
    except StoreUnavailable as error:
        raise UserError(error.message, error.hint) from error
    except (FileNotFoundError, PermissionError) as error:
        raise as_user_error(error, place.uri) from error
    except TooManyBytes as error:
        raise UserError(f"{place.uri}: {error.message}", error.hint or f"at most {max_bytes:,} are read") from error
    except (BadTar, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise UserError(f"{place.uri} can no longer be read", _AGAIN) from error


def _candidates(place: Place, storage: Storage, max_bytes: int) -> Iterator[bytes]:
    """What may be the image, the likeliest first."""
    whole, _, part = place.uri.partition("#")
    if not part:
        yield get_bytes(place.uri, storage, max_bytes=max_bytes)
    elif place.offset is not None and place.size is not None:
        if too_large := _too_many(place.size, max_bytes):
            raise too_large
        if place.size > 0 and place.offset >= 0:
            yield get_bytes(whole, storage, max_bytes=max_bytes, part=(place.offset, place.size))
    else:
        passed_over: TooManyBytes | None = None
        for _, data in finder([part])(whole, {part}, storage, max_bytes):
            if isinstance(data, TooManyBytes):
                passed_over = data
            else:
                yield data
        if passed_over is not None:
            raise passed_over


# The name of a member or row, and its bytes or that they are too many. Those may be of another column than the image's.
Found = Iterator[tuple[str, bytes | TooManyBytes]]


def finder(parts: Collection[str]) -> Callable[[str, Collection[str], Storage, int], Found]:
    """What finds these parts of one object, told by how they are spelled: rows of a parquet file, rows of a Lance
    table, or members of an archive."""
    if all(part.startswith("row=") and part[4:].isdecimal() for part in parts):
        return parquet_values
    if all(address_of(part) is not None for part in parts):
        from clipmill.workers.read.tables.lance_rows import row_values

        return row_values
    return members


def members(uri: str, parts: Collection[str], storage: Storage, max_bytes: int) -> Found:
    """Members of these names of a tar or a zip, spelled as the reader spells them, in the order of the archive."""
    with open_stream(uri, storage) as stream:
        if stream.read(2) == ZIP:
            yield from _zip_members(uri, parts, storage, max_bytes)
            return
        stream.seek(0)
        plain, is_packed = unpack(stream, uri)
        tar = TarReader(plain, seekable=not is_packed)
        for member in tar:
            name = quote(plain_name(member.name))
            if name not in parts or member.link is not None:
                continue
            yield name, _too_many(member.size, max_bytes) or tar.read(member)


def _zip_members(uri: str, parts: Collection[str], storage: Storage, max_bytes: int) -> Found:
    with open_archive(uri, storage) as archive:
        for info in archive.members:
            name = quote(name_of(info))
            if name not in parts:
                continue
            try:
                yield name, _too_many(info.file_size, max_bytes) or archive.read(info, max_bytes)[0]
            except BadMember:
                continue  # it is not there any more as it was


def parquet_values(uri: str, parts: Collection[str], storage: Storage, max_bytes: int) -> Found:
    """What columns of bytes hold in these rows (`row=N`); each row group is read once a column."""
    import pyarrow.parquet as pq

    wanted = sorted(int(part[4:]) for part in parts)
    with open_stream(uri, storage) as stream, _damage():
        file = pq.ParquetFile(stream, pre_buffer=False)
        first = 0
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            here = wanted[bisect_left(wanted, first) : bisect_left(wanted, stop)]
            for column in _byte_columns(file.schema_arrow) if here else ():
                for row, value in _values(file, group, column, [row - first for row in here]):
                    yield f"row={row + first}", _too_many(len(value), max_bytes) or value
            first = stop


@contextmanager
def _damage() -> Iterator[None]:
    """Arrow says OSError for pages that do not unpack, where it says ArrowInvalid for those that are cut off."""
    try:
        yield
    except OSError as error:
        raise_if_the_stores(error)
        raise pa.ArrowInvalid(str(error)) from error


def _too_many(num_bytes: int, max_bytes: int) -> TooManyBytes | None:
    if num_bytes <= max_bytes:
        return None
    return TooManyBytes(f"{num_bytes:,} bytes are more than the {max_bytes:,} allowed")


def _byte_columns(schema: pa.Schema) -> list[str]:
    """Columns that may hold encoded images, those with a usual name first."""
    return sorted((field.name for field in schema if holds_bytes(field.type)), key=usual_rank)


def _values(file: Any, group: int, column: str, rows: list[int]) -> Iterator[tuple[int, bytes]]:
    """(row of the group, its bytes) for each of these that has any; `rows` ascend."""
    first, left = 0, deque(rows)
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        while left and left[0] < first + batch.num_rows:
            value = batch.column(0)[left[0] - first].as_py()
            if isinstance(value, dict):  # {bytes, path}, as data sets on hubs have it
                value = value.get("bytes")
            if isinstance(value, bytes) and value:
                yield left[0], value
            left.popleft()
        if not left:
            return
        first += batch.num_rows
