"""Files that name rows, here or in a store: what `--ids` takes, and `select --out` and `dedup --keep-list` write."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage

MAX_BYTES = 4_000_000_000
ENDINGS = (".parquet", ".csv", ".txt")
_HINT = "give a file with one id a line, or a .parquet or .csv with a column id"


def read_ids(path: str, storage: Storage | None = None) -> tuple[str, ...]:
    """Each id once. Parquet, told by its first bytes: the column `id`; a .csv whose first line names `id`: that column;
    else one id a line, UTF-8; empty ones are none. `-`: stdin. `storage`: of a file in a store. Raises UserError that
    names the file, StoreUnavailable."""
    data = bytes_of(path, storage or Storage(), hint=_HINT)
    found = _of_parquet(data, path) if is_parquet(data) else _of_text(data, path)
    ids = tuple(dict.fromkeys(one for one in found if one))
    if not ids:
        raise UserError(f"{path} names no id", _HINT)
    if any("\0" in name for name in ids):
        raise UserError(f"{path} is no text: an id has a NUL character", _HINT)
    return ids


def bytes_of(path: str, storage: Storage, *, hint: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Of a file here, in a store, or `-`, which is stdin. Raises UserError that names it, StoreUnavailable."""
    if "://" in path:
        from clipmill.workers.store.errors import TooManyBytes, as_user_error
        from clipmill.workers.store.storage import get_bytes

        try:
            return get_bytes(path, storage, max_bytes=max_bytes)
        except (FileNotFoundError, PermissionError) as error:
            raise as_user_error(error, path) from None
        except TooManyBytes as error:
            raise UserError(f"{path}: {error}", "is it the right file?") from None
    try:
        if path != "-" and (size := Path(path).stat().st_size) > max_bytes:
            raise UserError(f"{path} has {size:,} bytes", f"at most {max_bytes:,} are read: is it the right file?")
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint) from None


def is_parquet(data: bytes) -> bool:
    return data[:4] == b"PAR1"


def columns_of_parquet(data: bytes, path: str, names: tuple[str, ...]) -> tuple[list[str], pa.Table]:
    """All names of its columns, and those of `names` that are there, as text. Raises UserError."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = file.read(columns=[name for name in file.schema_arrow.names if name in names])
        found = found.cast(pa.schema([(name, pa.large_string()) for name in found.column_names]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}", "write it again") from None
    return file.schema_arrow.names, found


def _of_parquet(data: bytes, path: str) -> list[Any]:
    there, found = columns_of_parquet(data, path, ("id",))
    if not found.column_names:
        raise UserError(f"{path} has no column id, but {', '.join(there) or 'none'}", _HINT)
    ids: list[Any] = found["id"].to_pylist()
    return ids


def _of_text(data: bytes, path: str) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text", _HINT) from None
    if path.lower().endswith(".csv"):
        try:
            reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
            if "id" in (reader.fieldnames or ()):
                return [row["id"] or "" for row in reader]
        except csv.Error as error:
            raise UserError(f"{path} is not CSV: {error}", _HINT) from None
    return text.replace("\r\n", "\n").split("\n")  # an id may hold other line ends


def write_ids(rows: pa.Table, to: str, storage: Storage) -> None:
    """The column `id` and what is beside it, as the ending says; of a .txt and any other name the ids alone, a line
    each. Whole or not at all. Raises UserError where an id cannot stand on a line."""
    out = io.BytesIO()
    if to.endswith(".csv"):
        import pyarrow.csv as pa_csv

        pa_csv.write_csv(rows, out)
    elif to.endswith(".parquet"):
        import pyarrow.parquet as pq

        pq.write_table(rows, out, compression="zstd")
    else:
        out.write(_lines(rows, to))
    put(to, out.getvalue(), storage)


def put(to: str, data: bytes, storage: Storage) -> None:
    """Raises UserError where nothing can be written there."""
    from clipmill.workers.store.storage import put_bytes

    try:
        put_bytes(to, data, storage)
    except OSError as error:
        if error.errno is None:  # no file system's
            raise
        raise UserError(f"{to} cannot be written: {error.strerror}", "name another place") from None


def _lines(rows: pa.Table, to: str) -> bytes:
    ids = rows["id"].to_pylist()
    odd = next((i for i in ids if not i or "\n" in i or "\r" in i), None)
    if odd is not None:
        other = f"{Path(to).stem or 'ids'}.parquet"
        raise UserError(f"the id {odd!r} does not fit on a line of {to}", f"name a parquet file, such as {other}")
    return "".join(f"{i}\n" for i in ids).encode("utf-8")
