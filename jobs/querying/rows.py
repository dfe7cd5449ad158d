"""What a person reads of each row, at hand in a file without a name, mapped: of a million rows, three columns of ten
hits cost Lance 1.2 ms of CPU, from here 0.05; all fifteen 8.1 and 0.2 (by hand, 2026-11-29).

N: rows of the table. K: hits.
"""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BATCH = 16_384  # rows


class HeldRows:
    """Columns by row id. Memory: 8 bytes a row, none where ids have no gaps; else the system's, while it has room.
    Immutable."""

    def __init__(self, row_ids_N: npt.NDArray[np.uint64], table: pa.Table) -> None:
        self._schema = table.schema
        self._chunks = {name: table[name].chunks for name in table.column_names}
        self._starts = np.cumsum([0, *(len(chunk) for chunk in table[0].chunks)])
        self._first = int(row_ids_N[0]) if len(row_ids_N) else 0
        self._count = len(row_ids_N)
        # As in a table from which nothing was deleted: an id says its place.
        gapless = bool((row_ids_N == np.arange(self._first, self._first + self._count, dtype=np.uint64)).all())
        order_N = None if gapless else np.argsort(row_ids_N, kind="stable")
        self._by_id = None if order_N is None else (row_ids_N[order_N], order_N)

    def take(self, row_ids_K: npt.NDArray[np.uint64], columns: tuple[str, ...]) -> pa.Table | None:
        """These rows in this order; None where one of them or a column is not here."""
        places_K = self._places(row_ids_K)
        if places_K is None or not columns or any(name not in self._chunks for name in columns):
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


def load(dataset: Any, names: Sequence[str], max_bytes: int) -> HeldRows | None:
    """Read these columns once. None where they are more than `max_bytes`, or there is no room for the file."""
    columns = [name for name in names if _is_simple(dataset.schema.field(name).type)]
    if not columns or max_bytes <= 0:
        return None
    ids: list[npt.NDArray[np.uint64]] = []
    try:
        with tempfile.TemporaryFile(prefix="clipmill-rows-") as file:
            if not _write(file, _batches(dataset, columns, ids), max_bytes):
                return None
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    return HeldRows(np.concatenate(ids), table)


def _batches(dataset: Any, columns: list[str], ids: list[npt.NDArray[np.uint64]]) -> Iterator[pa.RecordBatch]:
    """The row ids, which come behind the columns, go into `ids`."""
    for batch in dataset.scanner(columns=columns, with_row_id=True, batch_size=_BATCH).to_batches():
        ids.append(batch.column(len(columns)).to_numpy())
        yield batch.select(columns)


def _write(file: Any, batches: Iterator[pa.RecordBatch], max_bytes: int) -> bool:
    """False where there is nothing, or more than may be."""
    first = next(batches, None)
    if first is None:
        return False
    left: int = max_bytes - first.nbytes
    with pa.ipc.new_file(file, first.schema) as out:
        out.write_batch(first)
        for batch in batches:
            left -= batch.nbytes
            if left < 0:
                break
            out.write_batch(batch)
    return left >= 0


def _is_simple(kind: pa.DataType) -> bool:
    """Whether its arrays stand alone: dictionaries, for one, would differ from batch to batch."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
