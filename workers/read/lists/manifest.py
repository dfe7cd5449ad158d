"""Samples of a slice of a list of URIs and captions."""

import hashlib
from collections.abc import Iterator

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fields import BadField
from clipmill.workers.read.lists.lines import Rows, digest_start, open_rows
from clipmill.workers.read.remote import Row, read_rows
from clipmill.workers.read.tables.columns import image_column, link_names, recognised


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One sample or reject per row of the slice, in order; blank lines are no rows.

    `Sample.uri` is the image's own; where a row has none, its line, or its row in a parquet file, stands for it. With
    `id: key` the id is the row's `key` field, else the URI as it is written.
    Raises SourceChanged where the slice's rows are not the planned ones.
    """
    with open_rows(unit.uri, source, storage, start=int(unit.start), end=int(unit.end)) as rows:
        digest = digest_start(rows.header)
        found: list[tuple[bytes, str]] = []  # some thousand rows at most, as the survey cut them
        position, line = int(unit.start), unit.first_line
        for raw, after in rows.raw():
            digest.update(hashlib.sha256(raw).digest())
            if raw.strip():
                census.pictures += 1
                place = f"line={line}" if unit.first_line else f"{rows.unit}={position}"
                found.append((raw, f"{unit.uri}#{place}"))
            position, line = after, line + raw.count(b"\n")
        if str(digest.hexdigest())[:32] != unit.etag:
            raise SourceChanged(f"{unit.uri} changed since it was listed", "run again: it will be planned anew")
        names = link_names(unit.uri)
        source = recognised(rows.names, source, names)
        parsed = (row_of(rows, raw, place, source, names) for raw, place in found)
        yield from read_rows(parsed, unit.uri, source, storage, limits)


def row_of(rows: Rows, raw: bytes, place: str, source: Source, names: tuple[str, ...]) -> Row:
    """The record and its link, which the first column of `names` holds that is there."""
    try:
        record = rows.record(raw)
    except BadField as error:
        return Row(place=place, link=None, record={}, problem=str(error))
    column = image_column(list(record), source, names)
    link = record.get(column) if column is not None else None
    if link is not None and not isinstance(link, str):
        return Row(place=place, link=None, record={}, problem=f"{column} = {link!r:.80} is not a string")
    return Row(place=place, link=link, record=record)
