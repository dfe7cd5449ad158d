"""Samples of row groups of a parquet file: image bytes inside it, or a column of URIs.

An image column may be binary, Hugging Face's struct of `bytes` and `path`, or text, which then is a URI. So is a path
whose bytes are null: `datasets` writes it where a picture was given by its path.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import SourceObject, WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.remote import read_rows
from clipmill.workers.read.tables.columns import IMAGE_NAMES, recognised, rows_of
from clipmill.workers.read.tables.features import Features
from clipmill.workers.read.tables.table_rows import columns_of, is_by_path, link_of, sample_of
from clipmill.workers.store.storage import open_stream

_BATCH_ROWS = 32  # of images: what is in memory at once beside the page being decoded
_LINK_BATCH_ROWS = 1000
_BUFFER_BYTES = 1 << 20


def row_groups(item: SourceObject, source: Source, storage: Storage) -> list[tuple[int, int]] | None:
    """(rows, bytes) of each row group, from the footer; None where there is no readable footer.

    Raises UserError where a column that the job file names is missing.
    """
    import pyarrow as pa

    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        try:
            file = _open(stream)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise_if_the_stores(error)
            return None
        _columns(file, source, item.uri)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _open(stream: BinaryIO) -> Any:
    """Without pre-buffering, which would hold whole row groups."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def raise_if_the_stores(error: Exception) -> None:
    """Arrow says OSError for damaged data too; what storage raises is told apart by its type."""
    if isinstance(error, (ConnectionError, TimeoutError, PermissionError, FileNotFoundError)):
        raise error


def _columns(file: Any, source: Source, uri: str) -> tuple[str, list[str], bool]:
    """As `columns_of`."""
    schema = file.schema_arrow
    return columns_of(schema, source, uri, Features.of(schema).images)


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One sample or reject per row of the groups [unit.start, unit.end), in order. Rows that cannot be read because
    the file is damaged are rejects `corrupt`, one each. Raises SourceChanged, UserError."""
    import pyarrow as pa

    with open_stream(unit.uri, storage, expected_etag=unit.etag) as stream:
        try:
            file = _open(stream)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise_if_the_stores(error)
            detail = f"no readable parquet footer: {str(error)[:150]}"
            yield Reject(id=unit.uri, uri=unit.uri, reason=Reason.CORRUPT, detail=detail)
            return
        image, columns, is_link = _columns(file, source, unit.uri)
        source = recognised(file.schema_arrow.names, source, IMAGE_NAMES)
        start, end = int(unit.start or 0), int(unit.end or file.metadata.num_row_groups)
        census.pictures += sum(file.metadata.row_group(i).num_rows for i in range(start, end))
        records = _records(file, unit, (start, end), columns, _LINK_BATCH_ROWS if is_link else _BATCH_ROWS)
        for elsewhere, run in groupby(records, key=lambda one: is_link or is_by_path(one[1], image)):
            if elsewhere:
                links = (link_of(place, record, image) for place, record in run)
                yield from read_rows(links, unit.uri, source, storage, limits)
            else:
                yield from (sample_of(place, record, image, source, limits) for place, record in run)


def _records(
    file: Any, unit: WorkUnit, span: tuple[int, int], columns: list[str], batch_rows: int
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, record) of every row; a text instead of the record says why the row cannot be read."""
    import pyarrow as pa

    metadata, features = file.metadata, Features.of(file.schema_arrow)
    row = sum(metadata.row_group(i).num_rows for i in range(span[0]))
    for group in range(*span):
        after = row + metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
                for i in range(batch.num_rows):
                    yield f"{unit.uri}#row={row}", features.named(rows_of(batch.slice(i, 1))[0])
                    row += 1
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise_if_the_stores(error)
            detail = f"row group {group} is damaged: {str(error)[:150]}"
            while row < after:
                yield f"{unit.uri}#row={row}", detail
                row += 1
        row = after
