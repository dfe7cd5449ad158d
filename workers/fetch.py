"""The bytes of one row's image, from its `uri`: one ranged GET wherever the row knows its byte range.

For looking at rows one at a time (verify, the page, export); a job reads whole units instead.
"""

import gzip
import io
import tarfile
import zlib
from typing import Any

import pyarrow as pa

from schemas.config import Storage
from schemas.errors import UserError
from workers.storage import StoreUnavailable, get_bytes, open_stream
from workers.store_errors import TooManyBytes, as_user_error
from workers.store_uri import unquote

MAX_BYTES = 50_000_000


def fetch_image(
    uri: str,
    storage: Storage,
    *,
    offset: int | None = None,
    size: int | None = None,
    image_column: str = "image",
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """Encoded bytes. `offset` and `size` are the row's `image_offset` and `image_size`.

    Raises UserError where the object is gone, refused, damaged, larger than `max_bytes`, or its store is away. A
    member of a gzipped tar needs the tar read up to it; a parquet row needs one row group.
    """
    try:
        return _fetch(uri, storage, offset, size, image_column, max_bytes)
    except (FileNotFoundError, PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, uri) from error
    except TooManyBytes as error:
        raise UserError(error.message, error.hint) from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise UserError(f"{uri} can no longer be read", "the source changed; run `clipmill embed` again") from error


def _fetch(
    uri: str, storage: Storage, offset: int | None, size: int | None, image_column: str, max_bytes: int
) -> bytes:
    whole, _, part = uri.partition("#")
    if not part:
        return get_bytes(uri, storage, max_bytes=max_bytes)
    if offset is not None and size is not None:
        if size > max_bytes:
            raise UserError(f"{uri} has {size:,} bytes", f"at most {max_bytes:,} are read")
        return get_bytes(whole, storage, max_bytes=max_bytes, start=offset, size=size)
    if part.startswith("row="):
        return _parquet_value(whole, int(part.removeprefix("row=")), image_column, storage)
    return _tar_member(whole, unquote(part), storage, max_bytes)


def _tar_member(uri: str, name: str, storage: Storage, max_bytes: int) -> bytes:
    with open_stream(uri, storage) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            if member.name != name or not member.isfile():
                continue
            if member.size > max_bytes:
                raise UserError(f"{uri}#{name} has {member.size:,} bytes", f"at most {max_bytes:,} are read")
            body = tar.extractfile(member)
            assert body is not None
            return body.read()
    raise UserError(f"{uri} has no member {name} any more", "the source changed; run `clipmill embed` again")


def _parquet_value(uri: str, row: int, column: str, storage: Storage) -> bytes:
    import pyarrow.parquet as pq

    with open_stream(uri, storage) as stream:
        file = pq.ParquetFile(stream)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < first + count:
                value = file.read_row_group(group, columns=[column]).column(0)[row - first].as_py()
                return _bytes_of(value, f"{uri}#row={row}")
            first += count
    raise UserError(f"{uri} has no row {row} any more", "the source changed; run `clipmill embed` again")


def _bytes_of(value: Any, where: str) -> bytes:
    if isinstance(value, dict):  # {bytes, path}, as data sets on hubs have it
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise UserError(f"{where} holds no image bytes", "name the column with the bytes in source.image")
    return io.BytesIO(value).getvalue()
