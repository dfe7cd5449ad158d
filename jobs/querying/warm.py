"""A column's vectors in memory, for exact answers when a filter leaves few rows.

An index serves badly where few rows pass: the nearest of them may lie in any partition. Reading just those rows from
the table costs 10 to 16 us each; from memory 0.4 us (docs/querying.md). A server keeps this; a script need not.

N: rows of the table with a vector. M: rows asked for. D: dimension.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.vectors import WarmVectors

# Rows up to which an exact scan in memory beats the index at equal or better recall.
EXACT_ROWS = 12_000
# The same beside a search through every partition, which is what a filter at odds with the query needs.
EXACT_ROWS_FAR = 120_000


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
