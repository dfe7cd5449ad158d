"""Rows of a table (parquet, Lance) as samples: the picture is bytes in a column, a struct of bytes and path, or a text
names it, which then is a URI."""

from collections.abc import Iterable
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read.fields import BadField, lookup, sample_id, storable, values_of
from clipmill.workers.read.remote import Row, caption_path
from clipmill.workers.read.tables.columns import IMAGE_NAMES, STATUS, holds_bytes, is_text, needed_columns, said_of


def columns_of(schema: Any, source: Source, uri: str, images: Iterable[str]) -> tuple[str, list[str], bool]:
    """(image column, all columns, whether the image is a URI) of an Arrow schema. `images`: columns that say themselves
    that they hold pictures. Raises UserError."""
    image, columns = needed_columns(schema.names, source, uri, (*images, *IMAGE_NAMES))
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


def is_by_path(record: dict[str, Any] | str, column: str) -> bool:
    """Whether the row has {bytes, path} without the bytes."""
    value = record[column] if isinstance(record, dict) else None
    return isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str)


def link_of(place: str, record: dict[str, Any] | str, column: str) -> Row:
    """A text instead of the record says why the row cannot be read."""
    if isinstance(record, str):
        return Row(place=place, link=None, record={}, problem=record, reason=Reason.CORRUPT)
    value = record[column]
    return Row(place=place, link=value["path"] if isinstance(value, dict) else value, record=record)


def sample_of(place: str, record: dict[str, Any] | str, column: str, source: Source, limits: Limits) -> Sample | Reject:
    """The row's sample, or why it has none; a text instead of the record says why it cannot be read."""

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
            orientation=values.orientation_of(value),
        )
    except BadField as error:
        return reject(Reason.BAD_METADATA, str(error))
