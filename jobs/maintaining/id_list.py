"""A file that names rows: what `delete --ids` and `export --ids` take, and `select` and `dedup --keep-list` write."""

import csv
import io
import sys
from pathlib import Path

from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError

MAX_BYTES = 4_000_000_000  # of a list in a store
_HINT = "give a file with one id a line, or a .parquet or .csv with a column id"


def read_ids(path: str, storage: Storage | None = None) -> tuple[str, ...]:
    """Each id once. Parquet, told by its first bytes: the column `id`; a .csv whose first line names `id`: that column;
    else one id a line, UTF-8; empty ones are none. `-`: stdin. `storage`: of a file in a store. Raises UserError that
    names the file, StoreUnavailable."""
    data = _bytes_of(path, storage or Storage())
    found = _of_parquet(data, path) if data[:4] == b"PAR1" else _of_text(data, path)
    ids = tuple(dict.fromkeys(one for one in found if one))
    if not ids:
        raise UserError(f"{path} names no id", _HINT)
    if any("\0" in name for name in ids):
        raise UserError(f"{path} is no text: an id has a NUL character", _HINT)
    return ids


def _bytes_of(path: str, storage: Storage) -> bytes:
    if "://" in path:
        from clipmill.workers.store.errors import as_user_error
        from clipmill.workers.store.storage import get_bytes

        try:
            return get_bytes(path, storage, max_bytes=MAX_BYTES)
        except (FileNotFoundError, PermissionError) as error:
            raise as_user_error(error, path) from None
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", _HINT) from None


def _of_parquet(data: bytes, path: str) -> list[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        if "id" in names:
            found: list[str | None] = file.read(columns=["id"])["id"].cast(pa.large_string()).to_pylist()
            return found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}", "write it again") from None
    raise UserError(f"{path} has no column id, but {', '.join(names) or 'none'}", _HINT)


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
