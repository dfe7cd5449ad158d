"""A set of columns for rows that are in the table: read their pictures again, decode, embed, tag, write beside.

The unit is a fragment. Its rows of which the set is null are read from the places they name; what comes of it is a file
of the set's columns for all rows of the fragment, which the driver puts in place. Rows that were filled before keep
what they have. Where there are fewer fragments than keep every model busy, several units share one: each hands its
rows' values to the driver, which writes the one file that there can be.

D: dimension of the shared space.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.schemas.columns import FILL_ATTEMPT, ORIENTATION, SET_COLUMNS, has_orientation, set_column
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.read.again import PLACE, Read, Row, read_again
from clipmill.workers.store.errors import table_errors
from clipmill.workers.unit import UnitRun
from clipmill.workers.write import (
    ColumnFile,
    RejectWriter,
    num_tagged,
    open_version,
    reject_table,
    set_values,
    write_column_file,
)

NAMES = ("id", "uri", "image_offset", "image_size", "image_hash", "caption")
_ROWS_AT_ONCE = 4096


class SetColumns:
    """The columns of the set `slug` of one fragment of `dataset`."""

    def __init__(self, dataset: Any, fragment: int, slug: str) -> None:
        self.dataset, self.id, self.slug = dataset, fragment, slug
        self.columns = [set_column(base, slug) for base in SET_COLUMNS]

    def write(self, new: pa.Table, places: list[int], options: dict[str, str]) -> ColumnFile:
        """A file of them for every row of the fragment: `new` at its `places`, else what is there."""
        schema = pa.schema([self.dataset.schema.field(name) for name in self.columns])
        merged = self.merged(new.cast(schema), places)
        return write_column_file(self.dataset, self.id, merged, options, rows=len(places))

    def merged(self, new: pa.Table, places: list[int]) -> Iterator[pa.RecordBatch]:
        """The set's columns of every physical row: `new` at its `places`, else what is there."""
        order = np.argsort(places)
        places_N = np.asarray(places, np.int64)[order]
        new = new.take(pa.array(order)).combine_chunks()
        begin = 0
        for batch in self._scan(self.columns):
            there_M = (batch["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.int64)
            end = int(there_M[-1]) + 1
            yield _spread(new, places_N, pa.table(batch.select(self.columns)), there_M, begin, end)
            begin = end
        rest = int(self.dataset.get_fragment(self.id).physical_rows) - begin
        if rest:
            empty = new.slice(0, 0)
            yield _spread(new, places_N, empty, np.zeros(0, np.int64), begin, begin + rest)

    def _scan(self, names: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        scanner = self.dataset.get_fragment(self.id).scanner(
            columns=list(names), with_row_address=True, batch_size=_ROWS_AT_ONCE, **options
        )
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield batch


class Fragment(SetColumns):
    """One fragment at the version that the unit names, and its rows that wait for the set `slug`: all of them, or those
    at the places [first, last) of `part`."""

    def __init__(self, unit: WorkUnit, slug: str, options: dict[str, str]) -> None:
        self.unit = unit
        name, _, part = unit.start.partition(":")
        with table_errors(unit.uri):
            super().__init__(open_version(unit.uri, int(unit.etag), options), int(name), slug)
        first, _, last = part.partition("-")
        self.part = (int(first), int(last)) if part else None

    def rows(self) -> Iterator[Row]:
        """Those that are null in the set and not left out, at most as many as the unit may do."""
        left_out = frozenset(json.loads(self.unit.end or "[]"))
        left = self.unit.limit if self.unit.limit is not None else -1
        where = f"{set_column('vector', self.slug)} IS NULL"
        names = (*NAMES, ORIENTATION) if has_orientation(self.dataset.schema) else NAMES
        for batch in self._scan(names, filter=where):
            for row in self._of_part(batch).to_pylist():
                place = int(row["_rowaddr"]) & 0xFFFFFFFF
                if place in left_out:
                    continue
                if left == 0:
                    return
                left -= 1
                yield Row(
                    place=place,
                    id=row["id"],
                    uri=row["uri"],
                    offset=row["image_offset"],
                    size=row["image_size"],
                    image_hash=row["image_hash"],
                    caption=row["caption"],
                    orientation=row.get(ORIENTATION),
                )

    def _of_part(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.part is None:
            return batch
        places = batch["_rowaddr"].to_numpy() & 0xFFFFFFFF
        return batch.filter(pa.array((places >= self.part[0]) & (places < self.part[1])))

    def units_of(self, ids: list[str]) -> list[str]:
        """The unit of each row, for rejects."""
        names = ", ".join("'" + one.replace("'", "''") + "'" for one in ids)
        found: dict[str, str] = {}
        for batch in self._scan(("id", "unit_id"), filter=f"id IN ({names})"):
            found.update(zip(batch["id"].to_pylist(), batch["unit_id"].to_pylist(), strict=True))
        return [found.get(one, "") for one in ids]


def _spread(new: pa.Table, places_N: Any, there: pa.Table, there_M: Any, begin: int, end: int) -> pa.RecordBatch:
    """Rows [begin, end) of a fragment: new ones over those that are there, null where there is neither."""
    first, last = np.searchsorted(places_N, [begin, end])
    part = new.slice(first, last - first)
    index = np.full(end - begin, -1, np.int64)
    index[there_M - begin] = len(part) + np.arange(len(there_M))
    index[places_N[first:last] - begin] = np.arange(len(part))
    both = pa.concat_tables([part, there.cast(new.schema)])
    taken = both.take(pa.array(index, mask=index < 0)).combine_chunks()
    return taken.to_batches()[0]


class FillRejects(RejectWriter):
    """Each with the unit of its row; `attempt` 0."""

    def __init__(self, context: WorkContext, task: Task, fingerprint: str, fragment: Fragment) -> None:
        super().__init__(context, task, fingerprint)
        self._fragment = fragment

    def _table(self, rejects: list[Reject]) -> pa.Table:
        table = reject_table(
            rejects,
            unit_id="",
            run=self.context.run,
            attempt=FILL_ATTEMPT,
            fingerprint=self.fingerprint,
            table_id=self.context.table_id,
        )
        units = pa.array(self._fragment.units_of([one.id for one in rejects]), pa.string())
        return table.set_column(table.schema.get_field_index("unit_id"), table.schema.field("unit_id"), units)


class FillRun(UnitRun):
    """One attempt at one fragment."""

    def __init__(self, task: Task, context: WorkContext, bench: Bench) -> None:
        super().__init__(task, context, bench)
        self.fragment = Fragment(task.unit, context.fill, context.options)
        self.rejects = FillRejects(context, task, bench.engine.fingerprint.weights_sha256[:16], self.fragment)

    def run(self) -> Receipt:
        """`fragments` holds one `write.ColumnFile`, or nothing where nothing could be filled, or `values` are for the
        driver to write; `filled` what was asked of the store, in requests and bytes, and how many rows got tags."""
        read = Read()
        reading = read_again(self.fragment.rows(), self.context.storage, self.context.limits, read)
        tables: list[pa.Table] = []
        places: list[int] = []
        tagged = 0
        with self.bench.unit():
            for embedded in self._embedded_batches(reading):
                values = set_values(embedded)
                tables.append(pa.table([values[base] for base in SET_COLUMNS], names=self.fragment.columns))
                tagged += num_tagged(embedded.tags)
                places += [sample.metadata[PLACE] for sample in embedded.samples]
        start = time.perf_counter()
        files: tuple[str, ...] = ()
        handed_over = b""
        if places and self.fragment.part is None:
            made = self.fragment.write(pa.concat_tables(tables), places, self.context.options)
            files = (made.to_json(),)
        elif places:
            handed_over = _packed(pa.concat_tables(tables), places)
        self.rejects.flush()
        self.seconds["write"] = time.perf_counter() - start
        self.filled = {"requests": read.requests, "bytes": read.num_bytes, "tags": tagged}
        receipt = replace(self._receipt(Outcome.DONE, files), fragment=self.fragment.id, values=handed_over)
        receipt.check_balance()
        return receipt


def _packed(new: pa.Table, places: list[int]) -> bytes:
    whole = new.append_column(PLACE, pa.array(places, pa.int64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    return bytes(sink.getvalue())


def written_together(columns: SetColumns, values: Sequence[bytes], options: dict[str, str]) -> ColumnFile:
    """The file of what several units of one fragment handed over."""
    both = pa.concat_tables([pa.ipc.open_stream(one).read_all() for one in values])
    return columns.write(both.drop_columns([PLACE]), both[PLACE].to_pylist(), options)
