"""The rows that are left while a recipe runs, and what of them is read.

They are held in the order of their ids, so that wherever two are equal the one with the lower id comes first, whatever
the order of the table's files: sorting them stably is all that it takes. What is held is a row id for each, and the
scores that were used; columns are read in batches, where a step needs them, and let go.

N: rows that are left. B: rows of a batch. D: dimension.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from clipmill.jobs.querying.open import Table
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.querying.vectors import as_rows, normalise

BATCH_ROWS = 4096
READ_BYTES = 64_000_000  # that lance reads ahead; by default two gigabytes
FEW = 20  # of fewer than one row in so many, only those are read, one by one
Floats = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.int64]


class Rows:
    """Immutable. `values`: of each score that a step used, by name."""

    def __init__(self, table: Table, row_ids_N: npt.NDArray[np.uint64], values: dict[str, Floats]) -> None:
        self.table = table
        self.row_ids_N = row_ids_N
        self.values = values

    def __len__(self) -> int:
        return len(self.row_ids_N)

    def keep(self, which: npt.NDArray[np.bool_] | Places) -> "Rows":
        """Those of a mask, or at these places, in the order of their ids."""
        places = which if which.dtype == np.bool_ else np.sort(which)
        return Rows(self.table, self.row_ids_N[places], {name: of[places] for name, of in self.values.items()})

    def with_values(self, name: str, values_N: Floats) -> "Rows":
        return Rows(self.table, self.row_ids_N, {**self.values, name: values_N})

    def among(self, row_ids_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of the rows are among these, which are sorted."""
        if not len(row_ids_M):
            return np.zeros(len(self), np.bool_)
        found_N = np.minimum(np.searchsorted(row_ids_M, self.row_ids_N), len(row_ids_M) - 1)
        return np.asarray(row_ids_M[found_N] == self.row_ids_N)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Places, pa.Table]]:
        """(places, these columns of the rows there), each row once, in no order that matters."""
        if not len(self):
            return
        dataset = self.table.snapshot.dataset
        ids_N, place_N = self._sorted
        if len(self) * FEW < self.table.num_rows:
            for start in range(0, len(self), BATCH_ROWS):
                part = slice(start, start + BATCH_ROWS)
                yield place_N[part], dataset._take_rows(ids_N[part].tolist(), columns=list(columns))
            return
        scanner = dataset.scanner(
            columns=list(columns),
            with_row_id=True,
            batch_size=BATCH_ROWS,
            batch_readahead=2,
            fragment_readahead=1,
            io_buffer_size=READ_BYTES,
            scan_in_order=True,
        )
        for batch in scanner.to_batches():
            row_ids_B = batch.column(ROW_ID).to_numpy()
            found_B = np.minimum(np.searchsorted(ids_N, row_ids_B), len(ids_N) - 1)
            left_B = ids_N[found_B] == row_ids_B
            if left_B.any():
                rows = pa.Table.from_batches([batch]).select(list(columns))
                yield place_N[found_B[left_B]], rows.filter(pa.array(left_B))

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.uint64], Places]:
        order = np.argsort(self.row_ids_N)
        return self.row_ids_N[order], order

    def numbers(self, column: str) -> Floats:
        """Of a column of numbers, NaN where there is none (N,); float32 stays that, other kinds become float64."""
        kind = np.float32 if self.table.schema.field(column).type == pa.float32() else np.float64
        found_N: Floats = np.full(len(self), np.nan, kind)
        for places, rows in self.batches([column]):
            found_N[places] = pc.cast(rows[column], pa.from_numpy_dtype(kind), safe=False).to_numpy()
        return found_N

    def vectors(self, column: str) -> Iterator[tuple[Places, npt.NDArray[np.float32]]]:
        """(places, unit vectors (B, D)) of the rows that have one."""
        dim = self.table.snapshot.dim(column)
        for places, rows in self.batches([column]):
            yield places[np.asarray(rows[column].is_valid())], normalise(as_rows(rows[column], dim))

    def hashes(self, seed: str) -> npt.NDArray[np.uint64]:
        """64 bits of the id and the seed (N,): the same for an id in every table and version."""
        found_N = np.empty(len(self), np.uint64)
        salt = f"{seed}\n".encode()
        for places, rows in self.batches(["id"]):
            ids = rows["id"].to_pylist()
            found_N[places] = [xxhash.xxh3_64_intdigest(salt + i.encode("utf-8", "surrogatepass")) for i in ids]
        return found_N


def every_row(table: Table) -> Rows:
    """Of the version that is open, in the order of their ids. Memory for a moment: all ids."""
    scanner = table.snapshot.dataset.scanner(
        columns=["id"], with_row_id=True, batch_size=65_536, batch_readahead=2, io_buffer_size=READ_BYTES
    )
    found = scanner.to_table()
    order = pc.sort_indices(found["id"])
    return Rows(table, found[ROW_ID].to_numpy()[order.to_numpy()], {})
