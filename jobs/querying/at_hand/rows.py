"""What a person reads of each row, at hand in a file without a name, or one of several processes, mapped.

Of a million rows, three columns of ten hits cost Lance 1.2 ms of CPU, from here 0.05; all fifteen 8.1 and 0.2 (by
hand, 2026-11-29).

N: rows of the table. K: hits.
"""

import mmap
import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.shared import Key, Shared, map_arrays, save_arrays

_BATCH = 16_384  # rows
_NAME = "rows"


class HeldRows:
    """Columns by row id. Memory: 8 bytes a row, none where ids have no gaps; else the system's, while it has room.
    Immutable."""

    def __init__(self, row_ids_N: npt.NDArray[np.uint64], table: pa.Table) -> None:
        self._schema = table.schema
        self._chunks = {name: table[name].chunks for name in table.column_names}
        self._widest = {name: max(map(_widest, chunks), default=0) for name, chunks in self._chunks.items()}
        self._starts = np.cumsum([0, *(len(chunk) for chunk in table[0].chunks)])
        self._first = int(row_ids_N[0]) if len(row_ids_N) else 0
        self._count = len(row_ids_N)
        # As in a table from which nothing was deleted: an id says its place.
        gapless = bool((row_ids_N == np.arange(self._first, self._first + self._count, dtype=np.uint64)).all())
        order_N = None if gapless else np.argsort(row_ids_N, kind="stable")
        self._by_id = None if order_N is None else (row_ids_N[order_N], order_N)

    def __len__(self) -> int:
        return self._count

    def has(self, columns: Collection[str]) -> bool:
        return bool(columns) and all(name in self._chunks for name in columns)

    def widest(self, columns: Collection[str]) -> int:
        """Bytes that no row has more of in these columns."""
        return sum(self._widest[name] for name in columns)

    def each(self, name: str, told: Callable[[pa.Array], npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
        """(N,): what is told of the values of a column, some thousands at a time."""
        return np.concatenate([told(chunk) for chunk in self._chunks[name]])

    def ids_of(self, marks_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        """Of the marked rows, ascending."""
        if self._by_id is None:
            return np.flatnonzero(marks_N).astype(np.uint64) + np.uint64(self._first)
        sorted_N, order_N = self._by_id
        return sorted_N[marks_N[order_N]]

    def take(self, row_ids_K: npt.NDArray[np.uint64], columns: tuple[str, ...]) -> pa.Table | None:
        """These rows in this order; None where one of them or a column is not here."""
        places_K = self._places(row_ids_K)
        if places_K is None or not self.has(columns):
            return None
        chunk_K = np.searchsorted(self._starts, places_K, side="right") - 1
        where = list(zip(chunk_K.tolist(), (places_K - self._starts[chunk_K]).tolist(), strict=True))
        arrays = [
            pa.concat_arrays([chunks[chunk].slice(row, 1) for chunk, row in where])
            for chunks in (self._chunks[name] for name in columns)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema([self._schema.field(name) for name in columns]))

    def _places(self, row_ids_K: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp] | None:
        if not len(row_ids_K) or not self._count:
            return None
        if self._by_id is None:
            places_K = row_ids_K.astype(np.int64) - self._first
            inside = places_K.min() >= 0 and places_K.max() < self._count
            return places_K if inside else None
        sorted_N, order_N = self._by_id
        found_K = np.minimum(np.searchsorted(sorted_N, row_ids_K), self._count - 1)
        return order_N[found_K] if (sorted_N[found_K] == row_ids_K).all() else None


def load(
    dataset: Any, names: Sequence[str], max_bytes: int, shared: Shared | None, identity: tuple[str, int, str]
) -> HeldRows | None:
    """Read these columns once. None where they are more than `max_bytes`, or there is no room for the file. `shared`:
    with other processes, one of which reads them for all; `identity` is the snapshot's."""
    columns = [name for name in names if _is_simple(dataset.schema.field(name).type)]
    if not columns or max_bytes <= 0:
        return None
    try:
        if shared is not None:
            make = partial(_make_shared, dataset, columns, max_bytes)
            return shared.get_or_make("rows", Key(identity, (columns, max_bytes)), make, _read_shared)
        with tempfile.TemporaryFile(prefix="clipmill-rows-") as file:
            ids = _write(file, dataset, columns, max_bytes)
            return _mapped(file, ids) if ids is not None else None
    except OSError:
        return None


def _make_shared(dataset: Any, columns: list[str], max_bytes: int, folder: Path) -> None:
    """Without the ids where there is nothing to hold."""
    with (folder / _NAME).open("w+b") as file:
        ids = _write(file, dataset, columns, max_bytes)
    if ids is None:
        (folder / _NAME).unlink()
    else:
        save_arrays(folder, {"row_ids_N": ids})


def _read_shared(folder: Path) -> HeldRows | None:
    ids = map_arrays(folder).get("row_ids_N")
    if ids is None:
        return None
    with (folder / _NAME).open("rb") as file:
        return _mapped(file, ids)


def _mapped(file: Any, row_ids_N: npt.NDArray[np.uint64]) -> HeldRows:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return HeldRows(row_ids_N, pa.ipc.open_file(pa.py_buffer(mapped)).read_all())


def _write(file: Any, dataset: Any, names: list[str], max_bytes: int) -> npt.NDArray[np.uint64] | None:
    """The columns; their row ids are returned. None where there is nothing, or more than may be."""
    ids: list[npt.NDArray[np.uint64]] = []
    left, out = max_bytes, None
    try:
        for batch in dataset.scanner(columns=names, with_row_id=True, batch_size=_BATCH).to_batches():
            columns = batch.select(names)
            out = out or pa.ipc.new_file(file, columns.schema)
            left -= columns.nbytes
            if left < 0:
                return None
            ids.append(batch.column(len(names)).to_numpy())  # behind the columns
            out.write_batch(columns)
    finally:
        if out is not None:
            out.close()
    file.flush()
    return np.concatenate(ids) if ids else None


def _is_simple(kind: pa.DataType) -> bool:
    """Whether its arrays stand alone: dictionaries, for one, would differ from batch to batch."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _widest(values: pa.Array) -> int:
    """Bytes that no row of these has more of."""
    kind = values.type
    if pa.types.is_list(kind):
        each = pc.max(pc.list_value_length(values)).as_py() or 0
        return int(each) * _widest(values.flatten())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return int(pc.max(pc.binary_length(values)).as_py() or 0)
    return int(kind.bit_width + 7) // 8
