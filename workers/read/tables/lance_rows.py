"""Samples of a slice of a Lance table, and the pictures of its rows once more.

A picture is a column of bytes, a blob column, a struct of bytes and path, or a text that names it. Of a blob the size
is known before it is read. One that lies outside of the table, in a file that its row names, is not read: a table is a
stranger's, and might name any file of this machine.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fetch import memory_share
from clipmill.workers.read.remote import read_rows
from clipmill.workers.read.tables.columns import IMAGE_NAMES, holds_bytes, recognised, rows_of, usual_rank
from clipmill.workers.read.tables.features import Features
from clipmill.workers.read.tables.lance_table import (
    Slice,
    address_of,
    columns,
    is_blob,
    living,
    open_slice,
    open_table,
    part_of,
)
from clipmill.workers.read.tables.table_rows import is_by_path, link_of, sample_of
from clipmill.workers.store.errors import TooManyBytes, of_table

_BATCH_ROWS = 32  # of images
_LINK_BATCH_ROWS = 1000
_BATCH_BYTES = 64_000_000
_ADDRESS = "_rowaddr"
_FAILURES = (OSError, ValueError, RuntimeError)  # lance's; its own text tells whether it was the store

_Record = dict[str, Any] | str | Reject


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One sample or reject per row of the slice that is not deleted, in order; rows of a damaged file are rejects
    `corrupt`, one each. Raises SourceChanged, UserError."""
    version = int(unit.end.partition("@")[2])
    dataset = open_table(unit.uri, storage, version)
    image, names, is_link = columns(dataset, source, unit.uri)
    source = recognised(dataset.schema.names, source, IMAGE_NAMES)
    part = open_slice(unit.uri, unit.etag, (unit.start, unit.end), names, dataset)
    census.pictures += part.num_rows
    records = _Rows(dataset, unit.uri, image, names, limits).of(part, is_link=is_link)

    def is_link_or_path(one: tuple[str, _Record]) -> bool:
        return not isinstance(one[1], Reject) and (is_link or is_by_path(one[1], image))

    for elsewhere, run in groupby(records, key=is_link_or_path):
        if elsewhere:
            links = (link_of(place, record, image) for place, record in run if not isinstance(record, Reject))
            yield from read_rows(links, unit.uri, source, storage, limits)
            continue
        for place, record in run:
            yield record if isinstance(record, Reject) else sample_of(place, record, image, source, limits)


class _Rows:
    """The rows of a slice as records."""

    def __init__(self, dataset: Any, uri: str, image: str, names: list[str], limits: Limits) -> None:
        self._dataset, self._uri, self._image, self._names, self._limits = dataset, uri, image, names, limits
        self._is_blob = is_blob(dataset.schema.field(image))
        self._features = Features.of(dataset.schema)

    def of(self, part: Slice, *, is_link: bool) -> Iterator[tuple[str, _Record]]:
        """(place, record); a text instead of the record says why the row cannot be read, a reject why it may not be."""
        done = 0
        try:
            for batch in self._batches(part, _LINK_BATCH_ROWS if is_link else _BATCH_ROWS):
                for address, record in self._with_bytes(batch) if self._is_blob else self._records(batch):
                    yield self._place(address), record
                    done += 1
        except _FAILURES as error:
            if (told := of_table(error, self._uri)) is not error:
                raise told from error
            if "not found" in str(error).lower():  # a file that was cleaned up since
                raise SourceChanged(
                    f"{self._uri} changed while it was read", "run again: it is planned anew"
                ) from error
            detail = f"fragment {part.fragment} is damaged: {' '.join(str(error).split())[:150]}"
            live = living(self._dataset.get_fragment(part.fragment))
            for row in live[part.offset + done : part.offset + part.num_rows]:
                yield self._place((part.fragment << 32) + int(row)), detail

    def _batches(self, part: Slice, batch_rows: int) -> Iterator[Any]:
        fragment = self._dataset.get_fragment(part.fragment)
        yield from fragment.scanner(
            columns=self._names,
            offset=part.offset,
            limit=part.num_rows,
            with_row_address=True,
            batch_size=batch_rows,
            batch_size_bytes=_BATCH_BYTES,
            batch_readahead=1,
        ).to_batches()

    def _records(self, batch: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """One row at a time: of 32 pictures, one is held twice."""
        addresses, rows = batch.column(_ADDRESS).to_pylist(), batch.drop_columns([_ADDRESS])
        for i, address in enumerate(addresses):
            yield address, self._features.named(rows_of(rows.slice(i, 1))[0])

    def _place(self, address: int) -> str:
        return f"{self._uri}#{part_of(address)}"

    def _with_bytes(self, batch: Any) -> Iterator[tuple[int, _Record]]:
        """The records with what their blobs hold, or why that is not read; as many at once as may be held."""
        waiting: list[tuple[int, _Record]] = []
        held = 0
        for address, record in self._records(batch):
            size, refused = self._look(record[self._image], address)
            if held and held + size > memory_share(self._limits):
                yield from self._filled(waiting)
                waiting, held = [], 0
            waiting.append((address, refused or record))
            held += size
        yield from self._filled(waiting)

    def _look(self, blob: dict[str, Any] | None, address: int) -> tuple[int, Reject | None]:
        """(bytes to be read, why they are not)."""
        place, size = self._place(address), int(blob["size"]) if blob is not None else 0
        if blob is not None and is_elsewhere(blob):
            detail = "the blob lies outside of the table, and is not read"
            return 0, Reject(id=place, uri=place, reason=Reason.BAD_URI, detail=detail)
        if size > self._limits.max_image_bytes:
            detail = f"{size:,} bytes, the limit is {self._limits.max_image_bytes:,}"
            return 0, Reject(id=place, uri=place, reason=Reason.TOO_MANY_BYTES, detail=detail)
        return size, None

    def _filled(self, waiting: list[tuple[int, _Record]]) -> Iterator[tuple[int, _Record]]:
        wanted = [address for address, record in waiting if isinstance(record, dict)]
        blobs = _blobs(self._dataset, self._image, wanted)
        for address, record in waiting:
            yield address, {**record, self._image: blobs.get(address)} if isinstance(record, dict) else record


def is_elsewhere(blob: dict[str, Any]) -> bool:
    """Whether a blob's descriptor names a file of its own."""
    return bool(blob.get("blob_uri"))


def _blobs(dataset: Any, column: str, addresses: list[int]) -> dict[int, bytes | None]:
    return dict(dataset.read_blobs(column, addresses=addresses)) if addresses else {}


def row_values(
    uri: str, parts: Collection[str], storage: Storage, max_bytes: int
) -> Iterator[tuple[str, bytes | TooManyBytes]]:
    """What columns of bytes hold in these rows (`fragment=F&row=N`) of the table as it is now; of several columns those
    with a usual name first. Raises UserError, StoreUnavailable; pyarrow's errors for what is damaged."""
    wanted: dict[int, list[int]] = defaultdict(list)
    for address in sorted(found for part in parts if (found := address_of(part)) is not None):
        wanted[address >> 32].append(address)
    dataset = open_table(uri, storage)
    try:
        for number, addresses in wanted.items():
            fragment = dataset.get_fragment(number)
            for field in _byte_fields(dataset.schema) if fragment is not None else ():
                for run in _runs(living(fragment), addresses):
                    for address, value in _values(dataset, fragment, field, run, max_bytes):
                        yield part_of(address), value
    except _FAILURES as error:
        told = of_table(error, uri)
        raise (pa.ArrowInvalid(str(error)) if told is error else told) from error


def _byte_fields(schema: Any) -> list[Any]:
    found = [field for field in schema if is_blob(field) or holds_bytes(field.type)]
    return sorted(found, key=lambda field: usual_rank(field.name))


def _runs(live: npt.NDArray[np.uint32], addresses: list[int]) -> Iterator[dict[int, int]]:
    """{address: number among the fragment's living rows} of those that are there, as many as are read at once."""
    run: dict[int, int] = {}
    for address in addresses:
        row = address & 0xFFFFFFFF
        at = int(np.searchsorted(live, row))
        if at == len(live) or live[at] != row:
            continue
        if run and at - next(iter(run.values())) >= _BATCH_ROWS:
            yield run
            run = {}
        run[address] = at
    if run:
        yield run


def _values(
    dataset: Any, fragment: Any, field: Any, run: dict[int, int], max_bytes: int
) -> Iterator[tuple[int, bytes | TooManyBytes]]:
    """What the rows of a run have, those that have any."""
    first, last = min(run.values()), max(run.values())
    # Not `take`, which lance 13 refuses for blob columns.
    table = fragment.scanner(columns=[field.name], offset=first, limit=last - first + 1).to_table()
    for address, at in run.items():
        value = table.column(0)[at - first].as_py()
        size = 0
        if is_blob(field):
            size = int(value["size"]) if value is not None and not is_elsewhere(value) else 0
            value = _blobs(dataset, field.name, [address])[address] if 0 < size <= max_bytes else b""
        elif isinstance(value, dict):
            value = value.get("bytes")
        size = size or len(value or b"")
        if size:
            too_many = TooManyBytes(f"{size:,} bytes are more than the {max_bytes:,} allowed")
            yield address, too_many if size > max_bytes else bytes(value)
