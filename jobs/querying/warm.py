"""A column's vectors at hand, for exact answers when a filter leaves few rows.

An index serves badly where few rows pass: the nearest of them may lie in any partition. Reading just those rows from
the table costs 10 to 16 us each; from a byte a value 0.2 to 0.3, and only what may be among the nearest is compared as
it is stored (docs/querying.md). A server keeps this; a script need not. It lies in a file without a name, mapped.

N: rows of the table with a vector. M: rows asked for. B: rows of a batch. D: dimension.
"""

import ctypes
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.vectors import HeldVectors, Ids, Places, WarmVectors, batches_of, to_bytes
from clipmill.jobs.table.memory import available_bytes

# What reading the column and answering takes beside.
_SPARE_BYTES = 250_000_000

# As `os.preadv`, but the interpreter's lock is kept: to take it again after each of some twenty reads of half a
# microsecond cost a server 7 % more CPU, and its slowest answers more yet (by hand, 2026-11-29, 32 clients).
_pread = ctypes.PyDLL(None).pread
_pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
_pread.restype = ctypes.c_ssize_t

# Rows up to which an exact scan in memory beats the index at equal or better recall.
EXACT_ROWS = 12_000


def fits(snapshot: Snapshot, column: str) -> bool:
    return bool(pa.types.is_float16(snapshot.schema.field(column).type.value_type))


def too_large(snapshot: Snapshot, column: str, memory_bytes: int) -> str:
    """In one sentence, why the column's vectors cannot be at hand within `memory_bytes`; empty where they can."""
    if not fits(snapshot, column):
        return f"{column} is not of float16, so it is not kept in memory"
    needed = _bytes_needed(snapshot, column)
    if needed <= memory_bytes:
        return ""
    return (
        f"vectors of {column} take {_size(needed)} of memory, more than the {_size(memory_bytes)} they may (--memory)"
    )


def no_room(snapshot: Snapshot, columns: Sequence[str]) -> str:
    """In one sentence, that this machine or container has too little memory for the columns' vectors and indices."""
    free = available_bytes()
    needed = sum(_bytes_needed(snapshot, column) + snapshot.index_bytes(column) for column in columns)
    if free is None or needed + _SPARE_BYTES <= free:
        return ""
    return (
        f"vectors and index take {_size(needed)} of memory, queries some {_size(_SPARE_BYTES)}, and here are "
        f"{_size(free)} free"
    )


def _bytes_needed(snapshot: Snapshot, column: str) -> int:
    """With what rows take that do not come in the order of their ids."""
    return snapshot.num_rows * (snapshot.dim(column) + 32)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def load(snapshot: Snapshot, column: str) -> WarmVectors:
    """Read the column once."""
    rows, dim = snapshot.num_rows, snapshot.dim(column)
    file = _File.make(rows, dim)
    bytes_ND = file.bytes_ND if file else np.empty((rows, dim), dtype=np.int8)
    row_ids_N = np.empty(rows, dtype=np.uint64)
    step_N, off_N = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.float32)
    count = 0
    for ids_B, rows_BD in _batches(snapshot, column, None):
        place = slice(count, count + len(ids_B))
        row_ids_N[place] = ids_B
        bytes_BD, step_N[place], off_N[place] = to_bytes(rows_BD)
        if file:
            file.put(count, bytes_BD, rows_BD)
        else:
            bytes_ND[place] = bytes_BD
        count += len(ids_B)

    def of_table(_: Places, row_ids_M: Ids) -> npt.NDArray[np.float16]:
        stored = snapshot.dataset._take_rows(row_ids_M.tolist(), columns=[column])[column].combine_chunks()
        return np.asarray(stored.flatten()).reshape(-1, dim)

    return WarmVectors(
        row_ids_N[:count], bytes_ND[:count], (step_N[:count], off_N[:count]), file.stored if file else of_table
    )


class _File:
    """A file in TMPDIR that nobody else sees and that goes with the process: the vectors' bytes, which are mapped, and
    behind them the vectors as they are stored. Those are read: a page that is mapped counts as this process's memory,
    and the kernel maps a lot around what is asked for."""

    def __init__(self, file: Any, rows: int, dim: int) -> None:
        self._dim, self._behind = dim, rows * dim
        # Now: where the disk is full only later, there would be half of it.
        os.posix_fallocate(file.fileno(), 0, 3 * rows * dim)
        self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)
        self.bytes_ND = np.frombuffer(mmap.mmap(file.fileno(), rows * dim, prot=mmap.PROT_READ), dtype=np.int8).reshape(
            rows, dim
        )

    @classmethod
    def make(cls, rows: int, dim: int) -> "_File | None":
        """None where there is no room for it, or no such call (macOS)."""
        try:
            with tempfile.TemporaryFile(prefix="clipmill-vectors-") as file:
                return cls(file, rows, dim)
        except (OSError, AttributeError, ValueError):
            return None

    def put(self, place: int, bytes_BD: npt.NDArray[np.int8], rows_BD: npt.NDArray[np.float16]) -> None:
        self._write(place * self._dim, bytes_BD.data)
        self._write(self._behind + 2 * place * self._dim, np.ascontiguousarray(rows_BD).data)

    def _write(self, at: int, data: memoryview) -> None:
        left = data.cast("B")
        while left:
            done = os.pwrite(self._number, left, at)
            left, at = left[done:], at + done

    def stored(self, places_B: Places, _: Ids) -> npt.NDArray[np.float16]:
        rows_BD = np.empty((len(places_B), self._dim), dtype=np.float16)
        to, size, number, behind = rows_BD.ctypes.data, 2 * self._dim, self._number, self._behind
        for row, place in enumerate(places_B.tolist()):
            if _pread(number, to + row * size, size, behind + place * size) != size:
                raise OSError("vectors at hand cannot be read from TMPDIR any more")
        return rows_BD


def subset(snapshot: Snapshot, column: str, predicate: str) -> HeldVectors:
    """The vectors of the rows that pass a filter, as the table has them; kept, because pages and facets ask again."""

    def make() -> HeldVectors:
        room_ND = np.empty((snapshot.count(predicate), snapshot.dim(column)), dtype=np.float16)
        row_ids_N = np.empty(len(room_ND), dtype=np.uint64)
        count = 0
        for ids_B, rows_BD in _batches(snapshot, column, predicate):
            room_ND[count : count + len(ids_B)] = rows_BD
            row_ids_N[count : count + len(ids_B)] = ids_B
            count += len(ids_B)
        return HeldVectors(row_ids_N[:count], room_ND[:count])

    return snapshot.subsets.get_or_make((column, predicate), make)


def passing(snapshot: Snapshot, predicate: str) -> Ids:
    """Row ids that pass a filter, sorted; kept like `subset`."""

    def make() -> Ids:
        with filter_errors(predicate):
            found = snapshot.dataset.scanner(columns=[], filter=predicate, with_row_id=True).to_table()
        row_ids: Ids = np.sort(found[ROW_ID].to_numpy())
        return row_ids

    return snapshot.passing.get_or_make(predicate, make)


def _batches(snapshot: Snapshot, column: str, predicate: str | None) -> Iterator[tuple[Ids, npt.NDArray[np.float16]]]:
    """Row ids (B,) and vectors (B, D) of the rows that have one."""
    dim = snapshot.dim(column)
    with filter_errors(predicate):
        for batch in batches_of(snapshot.dataset, column, predicate):
            stored: Any = batch.column(column)
            valid = np.asarray(stored.is_valid())
            if valid.any():
                yield batch.column(ROW_ID).to_numpy()[valid], np.asarray(stored.drop_null().flatten()).reshape(-1, dim)
