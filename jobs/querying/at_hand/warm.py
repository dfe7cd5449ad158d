"""A column's vectors at hand: a server keeps them, a script need not.

From the table a row takes 10 to 16 us to compare, from a byte a value 0.02 to 0.1, and only what may be among the
nearest is compared as it is stored (docs/search-speed.md). They lie in a file without a name, by the partitions of the
column's index, which is then not asked itself: where few rows pass a filter, or those far from the query, it serves
badly, and else no faster.

N: rows of the table with a vector. M: rows asked for. B: rows of a batch. D: dimension.
"""

import errno
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying.at_hand import tags as held_tags
from clipmill.jobs.querying.at_hand.cells import Cells
from clipmill.jobs.querying.at_hand.marked import Marked
from clipmill.jobs.querying.at_hand.shared import Key, Shared, map_arrays, save_arrays
from clipmill.jobs.querying.at_hand.sketch import Sketch, WarmVectors, sketch_rows
from clipmill.jobs.querying.at_hand.vector_file import VectorFile
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.indexed import read
from clipmill.jobs.querying.pieces import scanners
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.vectors import HeldVectors, Ids, Places, among, ascending, batches_of
from clipmill.jobs.table.memory import available_bytes

logger = logging.getLogger(__name__)

# What reading the column and answering takes beside.
_SPARE_BYTES = 250_000_000
# Of a row, beside a byte a value: its id, scales and places (26 measured, 62 while it is brought into the order of its
# index; a million rows of 512 numbers, by hand, 2026-11-29).
_HELD, _LOADING = 32, 64

Arrays = dict[str, npt.NDArray[Any]]

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


def no_room(snapshot: Snapshot, columns: Sequence[str], asked: Sequence[str] = ()) -> str:
    """In one sentence, that this machine or container has too little memory for the columns' vectors, and the indices
    of those that are `asked`: one that no search asks is not loaded. Columns are read one after another."""
    free = available_bytes()
    vectors = sum(_bytes_needed(snapshot, column) for column in columns)
    vectors += snapshot.num_rows * (_LOADING - _HELD) if columns else 0
    needed = vectors + sum(snapshot.index_bytes(column) for column in asked)
    if free is None or needed + _SPARE_BYTES <= free:
        return ""
    what = "vectors take" if needed == vectors else "vectors and index take"
    told = f"{what} {_size(needed)} of memory, queries some {_size(_SPARE_BYTES)}, and here are {_size(free)} free"
    return told if free > _SPARE_BYTES else f"{told}, so the system may end this process"


def _bytes_needed(snapshot: Snapshot, column: str) -> int:
    return snapshot.num_rows * (snapshot.dim(column) + _HELD)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def load(snapshot: Snapshot, column: str, shared: Shared | None = None) -> WarmVectors:
    """Read the column once. The rows of each partition of its index then lie together, where its file is to be had.
    `shared`: with other processes, one of which reads it for all."""
    if shared is not None:
        try:
            return _shared(snapshot, column, shared)
        except OSError:
            logger.info("%s is not held together with other processes", column, exc_info=True)
    arrays, file, bytes_ND = _read(snapshot, column, None)
    return _held(snapshot, column, arrays, file, bytes_ND)


def is_shared(snapshot: Snapshot, column: str, shared: Shared | None) -> bool:
    return shared is not None and shared.has(*_key(snapshot, column))


def _key(snapshot: Snapshot, column: str) -> tuple[str, Key]:
    return f"vectors {column}", Key(snapshot.identity)


def _shared(snapshot: Snapshot, column: str, shared: Shared) -> WarmVectors:
    """Raises OSError where there is no room."""

    def make(folder: Path) -> None:
        arrays, file, _ = _read(snapshot, column, folder)
        if file is None:
            raise OSError(errno.ENOSPC, "no room for vectors at hand in TMPDIR")
        save_arrays(folder, arrays)

    def read(folder: Path) -> WarmVectors:
        arrays = map_arrays(folder)
        file = VectorFile.open(folder, snapshot.num_rows, snapshot.dim(column), arrays.get("order_N"))
        return _held(snapshot, column, arrays, file, file.bytes_ND)

    return shared.get_or_make(*_key(snapshot, column), make, read)


def _read(
    snapshot: Snapshot, column: str, folder: Path | None
) -> tuple[Arrays, VectorFile | None, npt.NDArray[np.int8]]:
    """What `_held` makes vectors at hand of: arrays, the file, in `folder` where one is given, and the bytes."""
    rows, dim = snapshot.num_rows, snapshot.dim(column)
    indexed = read(snapshot, column)
    file = VectorFile.make(rows, dim, arranged=indexed is not None, folder=folder)
    indexed = indexed if file else None
    centre_D = indexed.centroids_PD.mean(axis=0) if indexed else np.zeros(dim, np.float32)
    bytes_ND = file.bytes_ND if file else np.empty((rows, dim), dtype=np.int8)
    row_ids_N = np.empty(rows, dtype=np.uint64)
    step_N, off_N = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.float32)
    count = 0
    for ids_B, rows_BD in _batches(snapshot, column, None):
        place = slice(count, count + len(ids_B))
        row_ids_N[place] = ids_B
        bytes_BD, step_N[place], off_N[place] = sketch_rows(rows_BD, centre_D)
        if file:
            file.put(count, bytes_BD, rows_BD)
        else:
            bytes_ND[place] = bytes_BD
        count += len(ids_B)
    of_rows: Arrays = {"row_ids_N": row_ids_N[:count], "step_N": step_N[:count], "off_N": off_N[:count]}
    if not file or not indexed:
        return of_rows | {"centre_D": centre_D}, file, bytes_ND
    partition_N = indexed.partitions(of_rows["row_ids_N"])
    order_N = np.argsort(partition_N, kind="stable").astype(np.uint32 if rows < 1 << 32 else np.intp)
    file.arrange(order_N)
    of_rows = {name: values[order_N] for name, values in of_rows.items()}
    cells = Cells.of(indexed, partition_N)
    of_cells: Arrays = {"order_N": order_N, "centroids_PD": cells.centroids_PD, "starts": cells.starts}
    return of_rows | of_cells | {"centre_D": centre_D}, file, bytes_ND


def _held(
    snapshot: Snapshot,
    column: str,
    arrays: Arrays,
    file: VectorFile | None,
    bytes_ND: npt.NDArray[np.int8],
) -> WarmVectors:
    dim = snapshot.dim(column)

    def of_table(_: Places, row_ids_M: Ids) -> npt.NDArray[np.float16]:
        stored = snapshot.dataset._take_rows(row_ids_M.tolist(), columns=[column])[column].combine_chunks()
        return np.asarray(stored.flatten()).reshape(-1, dim)

    row_ids_N = arrays["row_ids_N"]
    sketch = Sketch(bytes_ND[: len(row_ids_N)], arrays["step_N"], arrays["off_N"], arrays["centre_D"])
    cells = Cells(arrays["centroids_PD"], arrays["starts"]) if "starts" in arrays else None
    return WarmVectors(row_ids_N, sketch, file.stored if file else of_table, cells)


def load_tags(snapshot: Snapshot, max_bytes: int) -> int:
    """Put the tags at hand beside vectors; the bytes they take."""
    for column, vectors in snapshot.warm.items():
        free = available_bytes()
        room = max_bytes if free is None else min(max_bytes, free - _SPARE_BYTES)
        tags = held_tags.load(snapshot.dataset, vectors.row_ids_N, room)
        snapshot.tags = (column, tags) if tags is not None else None
        return tags.nbytes if tags is not None else 0
    return 0


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
        if (found := snapshot.marked(predicate)) is not None and snapshot.tags is not None:
            column, tags = snapshot.tags
            at_hand = snapshot.warm[column].row_ids_N[found.marks_N]
            return ascending(np.concatenate([at_hand, tags.elsewhere[found.elsewhere]]))
        if snapshot.rows is not None and (told := snapshot.told(predicate)) is not None:
            return snapshot.rows.ids_of(told)
        with filter_errors(predicate):
            parts = [scanner.to_table()[ROW_ID].to_numpy() for scanner in scanners(snapshot.dataset, predicate)]
        return ascending(np.concatenate([np.empty(0, np.uint64), *parts]))

    return snapshot.passing.get_or_make(predicate, make)


def marks(snapshot: Snapshot, column: str, predicate: str) -> Marked:
    """Which of the vectors at hand pass a filter; kept like `subset`."""
    warm = snapshot.warm[column]
    if (found := known_marks(snapshot, column, predicate)) is not None:
        return found
    return snapshot.marks.get_or_make(
        (column, predicate), lambda: Marked.made(warm.marks(passing(snapshot, predicate)), len(warm))
    )


def those_that_pass(snapshot: Snapshot, column: str, predicate: str, row_ids_M: Ids) -> npt.NDArray[np.bool_]:
    """(M,): whether these rows pass, of which some may have no vector. Marks are not made for it: the other half of a
    query finds its road by whether they are there."""
    found = snapshot.marked(predicate)
    if found is None or snapshot.tags is None or snapshot.tags[0] != column:
        return among(row_ids_M, passing(snapshot, predicate))
    place_M = snapshot.warm[column].place_of(row_ids_M)
    here_M = place_M >= 0
    passes_M = np.zeros(len(row_ids_M), np.bool_)
    passes_M[here_M] = found.marks_N[place_M[here_M]]
    if not here_M.all():
        passes_M[~here_M] = np.isin(row_ids_M[~here_M], snapshot.tags[1].elsewhere[found.elsewhere])
    return passes_M


def known_marks(snapshot: Snapshot, column: str, predicate: str | None) -> Marked | None:
    """As `marks`, where Lance need not be asked."""
    if predicate is None:
        return None
    if snapshot.tags is not None and snapshot.tags[0] == column and (found := snapshot.marked(predicate)) is not None:
        return found
    return snapshot.marks.get((column, predicate))


def _batches(snapshot: Snapshot, column: str, predicate: str | None) -> Iterator[tuple[Ids, npt.NDArray[np.float16]]]:
    """Row ids (B,) and vectors (B, D) of the rows that have one."""
    dim = snapshot.dim(column)
    with filter_errors(predicate):
        for batch in batches_of(snapshot.dataset, column, predicate):
            stored: Any = batch.column(column)
            ids_B = batch.column(ROW_ID).to_numpy()[np.asarray(stored.is_valid())]
            rows_BD = np.asarray(stored.drop_null().flatten()).reshape(-1, dim)
            # Not finite, or of zeros, which Lance finds nowhere: as another client may write them.
            odd_B = ((rows_BD.view(np.uint16) & 0x7C00) == 0x7C00).any(axis=1) | ~rows_BD.any(axis=1)
            if not odd_B.all():
                yield (ids_B[~odd_B], rows_BD[~odd_B]) if odd_B.any() else (ids_B, rows_BD)
