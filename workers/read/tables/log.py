"""What img2dataset could not download, from the parquet file that it writes beside a shard's tar or folder.

The shard holds the pictures that came; the log `00042.parquet` has a row for each address, with its `status`. Those
that are not `success` are rejects here. In img2dataset's parquet output the rows themselves say it, see `parquet`.
"""

import re
from collections.abc import Iterator

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import SourceObject, WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fields import reject_id, storable
from clipmill.workers.read.tables.columns import STATUS, said_of
from clipmill.workers.read.tables.parquet import raise_if_the_stores
from clipmill.workers.store.storage import open_stream

_COLUMNS = ["key", "url", *STATUS]
_NAME = re.compile(r"\d+\.parquet")
_SUCCESS = "success"
_BATCH_ROWS = 10_000
_MAX_CHARS = 400


def is_log(uri: str) -> bool:
    """Whether an object is called as img2dataset calls its logs."""
    return _NAME.fullmatch(uri.rpartition("/")[2]) is not None


def count_failures(item: SourceObject, storage: Storage) -> int | None:
    """Rows whose status is not `success`, counted without looking at one; None for what is no log. Raises
    PermissionError, SourceChanged, StoreUnavailable."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False)
            if not set(_COLUMNS) <= set(file.schema_arrow.names):
                return None
            good = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=["status"], use_threads=False):
                good += pc.sum(pc.equal(batch.column(0), _SUCCESS)).as_py() or 0
            return int(file.metadata.num_rows - good)
        except (pa.ArrowException, OSError) as error:
            raise_if_the_stores(error)
            return None


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One reject per failed row, in order. Raises SourceChanged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    census.pictures += unit.num_samples or 0
    with open_stream(unit.uri, storage, expected_etag=unit.etag) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        row = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=_COLUMNS, use_threads=False):
                for record in batch.to_pylist():
                    if record["status"] != _SUCCESS:
                        place, key = f"{unit.uri}#row={row}", storable(str(record["key"]))
                        detail = f"{said_of(record)}: {record['url']}"[:_MAX_CHARS]
                        name = reject_id(source, place, key)
                        yield Reject(id=name, uri=place, reason=Reason.NO_IMAGE, detail=storable(detail))
                    row += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise_if_the_stores(error)
            detail = f"the log of img2dataset is damaged after row {row}: {str(error)[:150]}"
            yield Reject(id=unit.uri, uri=unit.uri, reason=Reason.CORRUPT, detail=detail)
