"""A column's vectors at hand, for exact answers when a filter leaves few rows.

An index serves badly where few rows pass: the nearest of them may lie in any partition. Reading just those rows from
the table costs 10 to 16 us each; from memory 0.4 us (docs/querying.md). A server keeps this; a script need not. It
lies in a file without a name, mapped: what is asked for is in memory, the rest where the system has room for it.

N: rows of the table with a vector. M: rows asked for. D: dimension.
"""

import mmap
import os
import tempfile
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
    if not fits(snapshot, column) or snapshot.num_rows * (2 * snapshot.dim(column) + 24) > memory_bytes:
        return None
    rows, dim = snapshot.num_rows, snapshot.dim(column)
    region = _file(2 * rows * dim)
    if region is None:
        return _read(snapshot, column, None, np.empty((rows, dim), dtype=np.float16))
    found = _read(snapshot, column, None, np.frombuffer(region, dtype=np.float16).reshape(rows, dim))
    region.madvise(mmap.MADV_DONTNEED)  # written, and no page of it is wanted yet
    return found


def _file(size: int) -> mmap.mmap | None:
    """So many bytes of a file in TMPDIR that nobody else sees and that goes with the process; None where there is no
    room for it, or no such call (macOS)."""
    try:
        with tempfile.TemporaryFile(prefix="clipmill-vectors-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # now: a write that finds the disk full would end the process
            return mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError, ValueError):
        return None


def fits(snapshot: Snapshot, column: str) -> bool:
    return bool(pa.types.is_float16(snapshot.schema.field(column).type.value_type))


def subset(snapshot: Snapshot, column: str, predicate: str) -> WarmVectors:
    """The vectors of the rows that pass a filter; kept, because pages and facets ask again and again."""

    def make() -> WarmVectors:
        if (warm := snapshot.warm.get(column)) is not None:
            return warm.take(passing(snapshot, predicate))
        room_ND = np.empty((snapshot.count(predicate), snapshot.dim(column)), dtype=np.float16)
        return _read(snapshot, column, predicate, room_ND)

    return snapshot.subsets.get_or_make((column, predicate), make)


def passing(snapshot: Snapshot, predicate: str) -> npt.NDArray[np.uint64]:
    """Row ids that pass a filter, sorted; kept like `subset`."""

    def make() -> npt.NDArray[np.uint64]:
        with filter_errors(predicate):
            found = snapshot.dataset.scanner(columns=[], filter=predicate, with_row_id=True).to_table()
        row_ids: npt.NDArray[np.uint64] = np.sort(found[ROW_ID].to_numpy())
        return row_ids

    return snapshot.passing.get_or_make(predicate, make)


def _read(snapshot: Snapshot, column: str, predicate: str | None, vectors_ND: npt.NDArray[np.float16]) -> WarmVectors:
    """Into `vectors_ND`, which has room for at least as many rows as will come."""
    dim = snapshot.dim(column)
    row_ids_N = np.empty(len(vectors_ND), dtype=np.uint64)
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
