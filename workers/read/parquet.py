"""Samples of row groups of a parquet file: image bytes inside it, or a column of URIs.

An image column may be binary, Hugging Face's struct of `bytes` and `path`, or text, which then is a URI. So is a path
whose bytes are null: `datasets` writes it where a picture was given by its path.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

from clipmill.schemas.config import Limits, Source, Storage
from clipmill.schemas.errors import UserError
from clipmill.schemas.rejects import Reason, Reject
from clipmill.schemas.samples import Sample
from clipmill.schemas.units import SourceObject, WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.columns import IMAGE_NAMES, STATUS, holds_bytes, is_text, needed_columns, rows_of, said_of
from clipmill.workers.read.fields import BadField, lookup, sample_id, storable, values_of
from clipmill.workers.read.labels import Features
from clipmill.workers.read.remote import Row, caption_path, read_rows
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
    """(image column, all columns, whether the image is a URI). Raises UserError."""
    schema = file.schema_arrow
    image, columns = needed_columns(schema.names, source, uri, (*Features.of(schema).images, *IMAGE_NAMES))
    if set(STATUS) <= set(schema.names):
        columns += [name for name in STATUS if name not in columns]
    kind = schema.field(image).type
    if is_text(kind):
        return image, columns, True
    if holds_bytes(kind):
        return image, columns, False
    raise UserError(
        f"column {image} of {uri} is {kind}, neither image bytes nor a URI", "name another column in source.image"
    )


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
        start, end = int(unit.start or 0), int(unit.end or file.metadata.num_row_groups)
        census.pictures += sum(file.metadata.row_group(i).num_rows for i in range(start, end))
        records = _records(file, unit, (start, end), columns, _LINK_BATCH_ROWS if is_link else _BATCH_ROWS)
        for elsewhere, run in groupby(records, key=lambda one: is_link or _is_by_path(one[1], image)):
            if elsewhere:
                links = (_link(place, record, image) for place, record in run)
                yield from read_rows(links, unit.uri, source, storage, limits)
            else:
                yield from (_sample(place, record, image, source, limits) for place, record in run)


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


def _is_by_path(record: dict[str, Any] | str, column: str) -> bool:
    """Whether the row has {bytes, path} without the bytes."""
    value = record[column] if isinstance(record, dict) else None
    return isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str)


def _link(place: str, record: dict[str, Any] | str, column: str) -> Row:
    if isinstance(record, str):
        return Row(place=place, link=None, record={}, problem=record, reason=Reason.CORRUPT)
    value = record[column]
    return Row(place=place, link=value["path"] if isinstance(value, dict) else value, record=record)


def _sample(place: str, record: dict[str, Any] | str, column: str, source: Source, limits: Limits) -> Sample | Reject:
    def reject(reason: Reason, detail: str = "") -> Reject:
        return Reject(id=place, uri=place, reason=reason, detail=detail)

    if isinstance(record, str):
        return reject(Reason.CORRUPT, record)
    value: Any = record.pop(column)
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if value is None:
        return reject(Reason.NO_IMAGE, said_of(record) or f"{column} is null")
    if len(value) == 0:
        return reject(Reason.EMPTY)
    if len(value) > limits.max_image_bytes:
        return reject(Reason.TOO_MANY_BYTES, f"{len(value):,} bytes, the limit is {limits.max_image_bytes:,}")
    key = storable(str(record.get("key") or record.get("__key__") or path or place.rpartition("#")[2]))
    try:
        values = values_of(record, source, lookup(record, caption_path(source)) if source.caption else None)
        return Sample(
            id=sample_id(source, uri=place, key=key, record=record),
            uri=place,
            image=value,
            caption=values.caption,
            metadata=values.metadata,
            unread=values.unread,
        )
    except BadField as error:
        return reject(Reason.BAD_METADATA, str(error))
