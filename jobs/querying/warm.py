"""A column's vectors in memory, for exact answers when a filter leaves few rows.

An index serves badly where few rows pass: the nearest of them may lie in any partition. Reading just those rows from
the table costs 10 to 16 us each; from memory 0.4 us (docs/querying.md). A server keeps this; a script need not.

N: rows of the table with a vector. M: rows asked for. D: dimension.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.querying.filters import filter_errors
from jobs.querying.snapshot import ROW_ID, Snapshot

# Rows up to which an exact scan in memory beats the index at equal or better recall.
EXACT_ROWS = 12_000
# The same beside a search through every partition, which is what a filter at odds with the query needs.
EXACT_ROWS_FAR = 120_000
_BLOCK = 2048


class WarmVectors:
    """float16 vectors by row id; 2 D + 8 bytes per row. Immutable once loaded."""

    def __init__(self, row_ids_N: npt.NDArray[np.uint64], vectors_ND: npt.NDArray[np.float16]) -> None:
        order = np.argsort(row_ids_N, kind="stable")
        in_order = bool((order == np.arange(len(order))).all())
        self.row_ids_N = row_ids_N if in_order else row_ids_N[order]
        self.vectors_ND = vectors_ND if in_order else vectors_ND[order]

    @property
    def nbytes(self) -> int:
        return self.row_ids_N.nbytes + self.vectors_ND.nbytes

    def take(self, row_ids_M: npt.NDArray[np.uint64]) -> "WarmVectors":
        """A copy of the rows asked for that have a vector."""
        places_M = self._places(row_ids_M)
        return WarmVectors(self.row_ids_N[places_M], self.vectors_ND[places_M])

    def _places(self, row_ids_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        wanted_M = np.sort(row_ids_M)
        found_M = np.searchsorted(self.row_ids_N, wanted_M)
        found_M[found_M == len(self.row_ids_N)] = 0
        return found_M[self.row_ids_N[found_M] == wanted_M] if len(self.row_ids_N) else found_M[:0]

    def cosines(
        self, vector_D: npt.NDArray[np.float32], row_ids_M: npt.NDArray[np.uint64] | None = None
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Row ids and cosines with a unit vector, of all rows or of those asked for that have a vector."""
        places = None if row_ids_M is None else self._places(row_ids_M)
        ids = self.row_ids_N if places is None else self.row_ids_N[places]
        score = np.empty(len(ids), dtype=np.float32)
        for start in range(0, len(ids), _BLOCK):
            stop = start + _BLOCK
            stored = self.vectors_ND[start:stop] if places is None else self.vectors_ND[places[start:stop]]
            rows_BD = to_float32(stored)
            lengths_B = np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD))
            # einsum, not @: for so little work BLAS threads cost more than they save, and on a busy machine they wait
            # for each other (56 ms instead of 8 for a thousand rows; by hand, 2026-11-21, two shared cores).
            score[start:stop] = np.einsum("bd,d->b", rows_BD, vector_D) / np.where(lengths_B == 0, 1, lengths_B)
        return ids, np.clip(score, -1, 1)


def to_float32(half: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Exact for finite values, at three times the speed of `astype`: the exponent is moved and then rebiased by
    2**(127 - 15), which is a multiplication."""
    bits = half.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # keep the sign and the 28 bits that were moved; drop the copies of the sign
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


def load(snapshot: Snapshot, column: str, memory_bytes: int) -> WarmVectors | None:
    """Read the column once; None where it would take more than `memory_bytes`."""
    if not fits(snapshot, column) or snapshot.num_rows * (2 * snapshot.dim(column) + 8) > memory_bytes:
        return None
    return _read(snapshot, column, None, snapshot.num_rows)


def fits(snapshot: Snapshot, column: str) -> bool:
    return bool(pa.types.is_float16(snapshot.schema.field(column).type.value_type))


def subset(snapshot: Snapshot, column: str, predicate: str) -> WarmVectors:
    """The vectors of the rows that pass a filter; kept, because pages and facets ask again and again."""

    def make() -> WarmVectors:
        if (warm := snapshot.warm.get(column)) is not None:
            return warm.take(passing(snapshot, predicate))
        return _read(snapshot, column, predicate, snapshot.count(predicate))

    return snapshot.subsets.get_or_make((column, predicate), make)


def passing(snapshot: Snapshot, predicate: str) -> npt.NDArray[np.uint64]:
    """Row ids that pass a filter, sorted; kept like `subset`."""

    def make() -> npt.NDArray[np.uint64]:
        with filter_errors(predicate):
            found = snapshot.dataset.scanner(columns=[], filter=predicate, with_row_id=True).to_table()
        row_ids: npt.NDArray[np.uint64] = np.sort(found[ROW_ID].to_numpy())
        return row_ids

    return snapshot.passing.get_or_make(predicate, make)


def _read(snapshot: Snapshot, column: str, predicate: str | None, rows: int) -> WarmVectors:
    """`rows`: at least as many as will come."""
    dim = snapshot.dim(column)
    row_ids_N = np.empty(rows, dtype=np.uint64)
    vectors_ND = np.empty((rows, dim), dtype=np.float16)
    count = 0
    with filter_errors(predicate):
        batches = snapshot.dataset.scanner(
            columns=[column], filter=predicate, with_row_id=True, batch_size=8192
        ).to_batches()
        for batch in batches:
            stored: Any = batch.column(column)
            valid = np.asarray(stored.is_valid())
            rows_BD = np.asarray(stored.drop_null().flatten()).reshape(-1, dim)
            vectors_ND[count : count + len(rows_BD)] = rows_BD
            row_ids_N[count : count + len(rows_BD)] = batch.column(ROW_ID).to_numpy()[valid]
            count += len(rows_BD)
    return WarmVectors(row_ids_N[:count], vectors_ND[:count])
