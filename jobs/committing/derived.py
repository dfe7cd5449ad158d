"""Columns that follow from stored vectors alone: tags of a vocabulary, scores of a head. No images, no GPU.

New values are written into columns beside those in use, a fragment a commit, and take their names in one commit that
renames all of them; then the old ones leave. A reader of any version sees the old values or the new, with the metadata
that says whose they are. Killed, the next call goes on with the fragments that are not done, or, where it is for
something else, drops what was begun.

Memory holds a few batches of rows, whatever the fragment's size. N: rows of a batch. D: dimension.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.committing.derived_rows import spread, unit_rows
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.schemas.columns import COMPUTED, REPLACED
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted
from clipmill.workers.write import ColumnFile, write_column_file

Say = Callable[[str], None]
Step = Callable[[str], None]
Compute = Callable[[npt.NDArray[np.float32]], Sequence[pa.Array]]
BATCH_ROWS = 4096
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
RETRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """`fields`: the columns; the metadata `key` of the first says what they were computed with, as JSON. They are up to
    date where the values of `told` are equal there. `compute`: of unit vectors (N, D), NaN where a row has none, the
    values of each column; none of the first column may be null for a row with a vector.

    `nulls`: a row without a vector stays null. `index`: the kind that the first column has, if any. `verb`: what is
    done to a row, such as scored."""

    fields: pa.Schema
    key: bytes
    told: tuple[str, ...]
    compute: Compute
    index: str
    verb: str
    vector: str = "vector"
    nulls: bool = False

    @property
    def names(self) -> list[str]:
        return list(self.fields.names)

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fields[0].metadata[self.key])
        return found

    def stored(self, schema: pa.Schema, end: str = "") -> dict[str, Any] | None:
        """What the columns that are there were computed with."""
        name = self.names[0] + end
        text = (schema.field(name).metadata or {}).get(self.key) if name in schema.names else None
        return json.loads(text) if text else None

    def is_current(self, schema: pa.Schema) -> bool:
        stored, about = self.stored(schema), self.about
        return stored is not None and all(stored.get(key) == about.get(key) for key in self.told)

    def missing(self, end: str = "") -> str:
        """SQL: of the rows that have none."""
        return f"{self.names[0]}{end} IS NULL" + (f" AND {self.vector} IS NOT NULL" if self.nulls else "")


def replacement(file: ColumnFile) -> Any:
    """As a commit of Lance takes it."""
    from lance.fragment import DataFile

    made = DataFile(file.path, list(file.fields), list(range(len(file.fields))), file.major, file.minor)
    return lance_module().LanceOperation.DataReplacementGroup(file.fragment, made)


class Derivation:
    """Brings the columns up to date. To be used under the table's lease and the fill lease."""

    def __init__(self, tables: Tables, lease: Lease, derived: Derived, say: Say, step: Step = lambda _: None) -> None:
        self.tables, self.lease, self.derived, self.step, self.say = tables, lease, derived, step, say

    def all(self) -> int:
        """Rows that were computed now. `step` is told before each commit (tests stop there). Raises LeaseLost."""
        self._finish()  # where a call was killed after its switch
        if self.derived.is_current(self.tables.open().schema):
            self._drop(COMPUTED)
            return self.fill()
        self._begin()
        done = self.fill(COMPUTED)
        self._switch()
        # None, unless this process slept past its lease between its last look and the switch.
        done += self.fill()
        self._finish()
        return done

    def _named(self, end: str) -> list[str]:
        return [name + end for name in self.derived.names]

    def _finish(self) -> None:
        """The index of the old values is followed by one of the new, and the old ones leave."""
        rows = self.tables.open()
        indices = rows.describe_indices()
        indexed = {tuple(index.field_names) for index in indices}
        name = self.derived.names[0]
        if (name + REPLACED,) in indexed and (name,) not in indexed:
            self.step("index")
            self.say(f"{name}: building their index again")
            self.lease.check()
            # While the old ones are there their index keeps its name: gone first, a kill would leave no trace of it.
            taken = {index.name for index in indices}
            free = next(one for one in (f"{name}_idx", f"{name}_idx2", f"{name}_idx3") if one not in taken)
            with writing(self.tables.uri()):
                rows.create_scalar_index(name, self.derived.index, name=free)
        self._drop(REPLACED)

    def _drop(self, end: str) -> None:
        present = [name for name in self._named(end) if name in self.tables.open().schema.names]
        if present:
            self.step(f"drop {self.derived.names[0]}{end}")
            self.lease.check()
            with writing(self.tables.uri()):
                self.tables.open().drop_columns(present)

    def _begin(self) -> None:
        """Empty columns, unless a killed call left them for the same."""
        schema = self.tables.open().schema
        there = all(name in schema.names for name in self._named(COMPUTED))
        if there and self.derived.stored(schema, COMPUTED) == self.derived.about:
            self.say("going on with what an earlier call began")
            return
        self._drop(COMPUTED)
        self.step("begin")
        self.lease.check()
        fields = [field.with_name(field.name + COMPUTED) for field in self.derived.fields]
        with writing(self.tables.uri()):
            self.tables.open().add_columns(pa.schema(fields))

    def fill(self, end: str = "") -> int:
        """Rows that had no value under these names."""
        done = 0
        rows = self.tables.open()
        if not end and not rows.count_rows(self.derived.missing()):
            return 0
        fragments = rows.get_fragments()
        for at, fragment in enumerate(fragments):
            if number := self._fill_fragment(fragment.fragment_id, end):
                done += number
                self.say(f"{counted(done, 'row')} {self.derived.verb}, fragment {at + 1} of {len(fragments)}")
        return done

    def _fill_fragment(self, fragment_id: int, end: str) -> int:
        lance = lance_module()
        for _ in range(RETRIES):
            dataset = self.tables.open()
            fragment = dataset.get_fragment(fragment_id)
            rows = int(fragment.count_rows(self.derived.missing(end))) if fragment is not None else 0
            if not rows:
                return 0
            with writing(self.tables.uri()):
                made = self._computed(fragment, self._named(end))
                file = write_column_file(dataset, fragment_id, made, self.tables.options, rows=rows)
            self.step(f"fill {self.derived.names[0]}{end} {fragment_id}")
            self.lease.check()
            operation = lance.LanceOperation.DataReplacement([replacement(file)])
            try:
                lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation))
            except OSError as error:
                if not is_conflict(error):
                    raise
                continue
            return rows
        raise UserError(
            f"fragment {fragment_id} was rewritten {RETRIES} times while its rows were {self.derived.verb}",
            "run the command again when other programs are done with the table; it goes on from there",
        )

    def _computed(self, fragment: Any, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Physical rows in order; deleted ones are null."""
        types = [field.type for field in self.derived.fields]
        schema = pa.schema([pa.field(name, kind) for name, kind in zip(names, types, strict=True)])
        done = 0
        scanner = fragment.scanner(columns=[self.derived.vector], with_row_address=True, batch_size=BATCH_ROWS)
        for place_N, values in self._ahead(scanner.to_batches()):
            stop = int(place_N[-1]) + 1
            yield spread(values, place_N - done, stop - done, schema)
            done = stop
        if done < fragment.physical_rows:
            nothing = [pa.array([], kind) for kind in types]
            yield spread(nothing, np.zeros(0, np.int64), fragment.physical_rows - done, schema)

    def _ahead(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[npt.NDArray[np.int64], Sequence[pa.Array]]]:
        """Offsets within the fragment and values of each batch, in order; one more than there are threads is held."""
        from threadpoolctl import threadpool_limits

        def computed(stored: pa.Array) -> Sequence[pa.Array]:
            return self.derived.compute(unit_rows(stored, stored.type.list_size))

        waiting = deque[tuple[npt.NDArray[np.int64], Future[Sequence[pa.Array]]]]()
        # Batches are small: threads of BLAS would wait for each other, ours do not.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(THREADS, thread_name_prefix="derive") as pool:
            for batch in batches:
                place_N = (batch.column("_rowaddr").to_numpy() & 0xFFFFFFFF).astype(np.int64)
                waiting.append((place_N, pool.submit(computed, batch.column(self.derived.vector))))
                if len(waiting) > THREADS:
                    place_N, done = waiting.popleft()
                    yield place_N, done.result()
            for place_N, done in waiting:
                yield place_N, done.result()

    def _switch(self) -> None:
        """One commit, so that no version has some of both."""
        self.step("switch")
        rows = self.tables.open()
        left = rows.count_rows(self.derived.missing(COMPUTED))
        if left:
            raise UserError(
                f"{counted(left, 'row')} came while the table's rows were {self.derived.verb}",
                "run the command again; it goes on",
            )
        self.lease.check()
        there = [name for name in self.derived.names if name in rows.schema.names]
        renames = [(name, name + REPLACED) for name in there]
        renames += [(name + COMPUTED, name) for name in self.derived.names]
        with writing(self.tables.uri()):
            rows.alter_columns(*({"path": was, "name": now} for was, now in renames))
        self.say(f"switched to the new {self.derived.names[0]}")
