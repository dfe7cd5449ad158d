"""The golden set of a job file: a CSV or parquet file that says what pictures of the table show."""

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipmill.jobs.exploring.evaluate import EvaluateOptions
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.storage import get_bytes

MAX_BYTES = 200_000_000
HINT = "it needs the columns id (or uri), and label or caption"


@contextlib.contextmanager
def golden_options(uri: str, storage: Storage) -> Iterator[EvaluateOptions]:
    """What `evaluate` is asked for. Raises UserError for a file that is not there or not of that form."""
    with tempfile.TemporaryDirectory(prefix="clipmill-golden-") as folder:
        table = _read(uri, storage)
        names = table.column_names
        key = next((name for name in ("id", "uri") if name in names), None)
        value = next((name for name in ("label", "caption") if name in names), None)
        if key is None or value is None or not table.num_rows:
            what = f"has the columns {', '.join(names) or 'none'}" if table.num_rows else "is empty"
            raise UserError(f"nightly.golden {uri} {what}", HINT)
        path = Path(folder) / "golden.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([key, value])
            for batch in table.select([key, value]).to_batches():
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        yield EvaluateOptions(labels=str(path)) if value == "label" else EvaluateOptions(captions=str(path))


def check_golden(uri: str, storage: Storage) -> None:
    """Raises UserError: a mistake is told before the night begins."""
    with golden_options(uri, storage):
        pass


def _read(uri: str, storage: Storage) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    try:
        raw = get_bytes(uri, storage, max_bytes=MAX_BYTES)
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"nightly.golden {uri} cannot be read: {error}", "check the path, or take it out") from None
    try:
        if raw[:4] == b"PAR1":
            return pq.read_table(io.BytesIO(raw))
        text = pc.ConvertOptions(column_types=dict.fromkeys(("id", "uri", "label", "caption"), pa.string()))
        return pc.read_csv(io.BytesIO(raw), convert_options=text)
    except pa.ArrowException as error:
        raise UserError(f"nightly.golden {uri} is neither CSV nor parquet: {str(error)[:200]}", HINT) from None
