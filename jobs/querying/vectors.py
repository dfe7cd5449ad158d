"""Stored vectors as arrays, and those of a column at hand.

N, S: rows that have one. M: rows asked for. B: rows of a block. D: dimension.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BLOCK = 512  # rows: 1 MB of float32, which a core has at hand; 2048 took a quarter longer (by hand, 2026-11-28, AMD)
_READ = 8192  # rows
_ROUNDING = 1e-5  # of cosines in float32, at most

Ids = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float32]


def as_rows(column: pa.ChunkedArray, dim: int) -> Floats:
    """The vectors that are there, float32 (S, D)."""
    flat = column.drop_null().combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks) if flat.num_chunks else pa.array([], column.type)
    return np.asarray(flat.flatten()).astype(np.float32).reshape(-1, dim)


def normalise(vectors_SD: Floats) -> Floats:
    lengths_S = np.linalg.norm(vectors_SD, axis=1, keepdims=True)
    return (vectors_SD / np.where(lengths_S == 0, 1, lengths_S)).astype(np.float32, copy=False)


def batches_of(
    dataset: Any, column: str, predicate: str | None = None, *, fragment_ids: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The column and the row ids, where `fragment_ids` are given of those alone. Without a filter in many short scans:
    one long scan reads ahead as fast as it can, some 300 MB of a table of 200 (by hand, 2026-11-28), in the same time.
    """
    options: dict[str, Any] = {"columns": [column], "with_row_id": True, "batch_size": _READ}
    if fragment_ids is not None:
        options["fragments"] = [dataset.get_fragment(fragment_id) for fragment_id in fragment_ids]
    if predicate is not None:
        yield from dataset.scanner(filter=predicate, **options).to_batches()
        return
    for start in range(0, dataset.scanner(**options | {"columns": []}).count_rows(), _READ):
        yield from dataset.scanner(offset=start, limit=_READ, **options).to_batches()


class HeldVectors:
    """A few rows' float16 vectors; 2 D + 8 bytes per row. Immutable."""

    def __init__(self, row_ids_N: Ids, vectors_ND: npt.NDArray[np.float16]) -> None:
        self.row_ids_N, self.vectors_ND = row_ids_N, vectors_ND

    @property
    def nbytes(self) -> int:
        return self.row_ids_N.nbytes + self.vectors_ND.nbytes

    def cosines(self, vector_D: Floats) -> tuple[Ids, Floats]:
        """Row ids and cosines with a unit vector."""
        places_N = np.arange(len(self.row_ids_N))
        return self.row_ids_N, _cosines(lambda places_B: self.vectors_ND[places_B], places_N, vector_D)


class WarmVectors:
    """All vectors of a column by row id, in a byte a value, so that what cannot be among the nearest is seen without
    the stored ones; `stored` gives those of the few that can be (B, D), by their places and row ids.

    Memory: D + 16 bytes per row, and 16 more where the rows do not come in the order of their ids. Immutable.
    """

    def __init__(
        self,
        row_ids_N: Ids,
        bytes_ND: npt.NDArray[np.int8],
        scales: tuple[Floats, Floats],
        stored: Callable[[Places, Ids], npt.NDArray[np.float16]],
    ) -> None:
        """`scales`: what a byte stands for and how far a row's bytes are from its unit vector (N,), by `to_bytes`."""
        order_N = np.argsort(row_ids_N, kind="stable")
        self.row_ids_N, self.bytes_ND, self._stored = row_ids_N, bytes_ND, stored
        self._step_N, self._off_N = scales
        self._order_N = None if (order_N == np.arange(len(order_N))).all() else order_N
        self._sorted_N = row_ids_N if self._order_N is None else row_ids_N[order_N]
        # Without gaps, as in a table from which nothing was deleted, an id says its place.
        self._gapless = len(order_N) > 0 and int(self._sorted_N[-1]) - int(self._sorted_N[0]) == len(order_N) - 1

    @property
    def nbytes(self) -> int:
        """Of everything that a row takes here."""
        order = 0 if self._order_N is None else self._order_N.nbytes + self._sorted_N.nbytes
        return self.row_ids_N.nbytes + self.bytes_ND.nbytes + self._step_N.nbytes + self._off_N.nbytes + order

    def best(self, vector_D: Floats, depth: int, row_ids_M: Ids | None = None) -> tuple[Ids, Floats]:
        """Row ids and cosines with a unit vector of the `depth` nearest rows, of all or of those asked for that have a
        vector, and of some more: all that are as near as the last of them are there."""
        places = None if row_ids_M is None else self._places(row_ids_M)
        score = self._about(vector_D, places)
        off = self._off_N if places is None else self._off_N[places]
        if len(score) > depth:
            least = np.partition(score - off, len(score) - depth)[len(score) - depth]
            near = np.flatnonzero(score + off >= least)
            places = near if places is None else places[near]
        elif places is None:
            places = np.arange(len(score))
        return self.row_ids_N[places], self._exact(vector_D, places)

    def cosines(self, vector_D: Floats, row_ids_M: Ids) -> tuple[Ids, Floats]:
        """Row ids and cosines with a unit vector, of those asked for that have a vector."""
        places = self._places(row_ids_M)
        return self.row_ids_N[places], self._exact(vector_D, places)

    def _places(self, row_ids_M: Ids) -> Places:
        """Of those that are there, by row id."""
        wanted_M = np.sort(row_ids_M)
        if self._gapless:
            first, last = self._sorted_N[0], self._sorted_N[-1]
            found_M: Places = (wanted_M[(wanted_M >= first) & (wanted_M <= last)] - first).astype(np.intp)
        else:
            found_M = np.searchsorted(self._sorted_N, wanted_M)
            found_M[found_M == len(self._sorted_N)] = 0
            found_M = found_M[self._sorted_N[found_M] == wanted_M] if len(self._sorted_N) else found_M[:0]
        return found_M if self._order_N is None else self._order_N[found_M]

    def _about(self, vector_D: Floats, places: Places | None) -> Floats:
        """Cosines, each wrong by `_off_N` at most."""
        score = np.empty(len(self.row_ids_N) if places is None else len(places), dtype=np.float32)
        # Into the same memory block after block: 40,000 of 400,000 rows were gathered in 3.7 ms instead of 5.0 (by
        # hand, 2026-11-29, beside other work).
        few_BD = np.empty((_BLOCK, self.bytes_ND.shape[1]), np.int8)
        wide_BD = np.empty(few_BD.shape, np.float32)
        for start in range(0, len(score), _BLOCK):
            count = len(score[start : start + _BLOCK])
            bytes_BD = self.bytes_ND[start : start + count]
            if places is not None:
                bytes_BD = few_BD[:count]
                np.take(self.bytes_ND, places[start : start + count], axis=0, out=bytes_BD, mode="clip")
            np.copyto(wide_BD[:count], bytes_BD)
            score[start : start + count] = np.einsum("bd,d->b", wide_BD[:count], vector_D)
        score *= self._step_N if places is None else self._step_N[places]
        return score

    def _exact(self, vector_D: Floats, places_M: Places) -> Floats:
        return _cosines(lambda places_B: self._stored(places_B, self.row_ids_N[places_B]), places_M, vector_D)


def _cosines(rows: Callable[[Places], npt.NDArray[np.float16]], places_M: Places, vector_D: Floats) -> Floats:
    score = np.empty(len(places_M), dtype=np.float32)
    for start in range(0, len(places_M), _BLOCK):
        rows_BD = to_float32(rows(places_M[start : start + _BLOCK]))
        lengths_B = np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD))
        # einsum, not @: for so little work BLAS threads cost more than they save, and on a busy machine they wait
        # for each other (56 ms instead of 8 for a thousand rows; by hand, 2026-11-21, two shared cores).
        score[start : start + _BLOCK] = np.einsum("bd,d->b", rows_BD, vector_D) / np.where(lengths_B == 0, 1, lengths_B)
    return np.clip(score, -1, 1)


def to_bytes(rows_SD: npt.NDArray[np.float16]) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Unit vectors of the rows as bytes (S, D), what a byte of each row stands for, and how far the row may be from
    what its bytes say (S,): no cosine with a unit vector is wrong by more."""
    bytes_SD = np.empty(rows_SD.shape, np.int8)
    step_S, off_S = np.empty(len(rows_SD), np.float32), np.empty(len(rows_SD), np.float32)
    for start in range(0, len(rows_SD), _BLOCK):
        block = slice(start, start + _BLOCK)
        unit_BD = normalise(to_float32(rows_SD[block]))
        step_B = np.maximum(unit_BD.max(axis=1), -unit_BD.min(axis=1)) / np.float32(127)
        near_BD = np.rint(unit_BD / np.where(step_B == 0, 1, step_B)[:, None])
        bytes_SD[block] = near_BD
        near_BD *= step_B[:, None]
        near_BD -= unit_BD
        step_S[block], off_S[block] = step_B, np.sqrt(np.einsum("bd,bd->b", near_BD, near_BD)) + _ROUNDING
    return bytes_SD, step_S, off_S


def to_float32(half: npt.NDArray[np.float16]) -> Floats:
    """Exact for finite values, at three times the speed of `astype`: the exponent is moved and then rebiased by
    2**(127 - 15), which is a multiplication."""
    bits = half.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # keep the sign and the 28 bits that were moved; drop the copies of the sign
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide
