"""Stored vectors as arrays.

N, S: rows that have one. M: rows asked for. B: rows of a block. D: dimension.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying import deadline
from clipmill.jobs.querying.damaged import naming_damage

BLOCK = 512  # rows: 1 MB of float32, which a core has at hand; 2048 took a quarter longer (by hand, 2026-11-28, AMD)
_READ = 8192  # rows

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
        with naming_damage(dataset, predicate):
            yield from dataset.scanner(filter=predicate, **options).to_batches()
        return
    for start in range(0, dataset.scanner(**options | {"columns": []}).count_rows(), _READ):
        yield from dataset.scanner(offset=start, limit=_READ, **options).to_batches()


def ascending(row_ids_M: Ids) -> Ids:
    """Sorted; mostly they are, and to see that takes a fiftieth of sorting them."""
    return row_ids_M if (row_ids_M[1:] >= row_ids_M[:-1]).all() else np.sort(row_ids_M)


def among(row_ids_M: Ids, allowed: Ids) -> npt.NDArray[np.bool_]:
    """(M,): which of these are among others, which ascend."""
    if not len(allowed):
        return np.zeros(len(row_ids_M), np.bool_)
    place_M = np.minimum(np.searchsorted(allowed, row_ids_M), len(allowed) - 1)
    among_M: npt.NDArray[np.bool_] = allowed[place_M] == row_ids_M
    return among_M


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
        return self.row_ids_N, exact_cosines(lambda places_B: self.vectors_ND[places_B], places_N, vector_D)


def exact_cosines(rows: Callable[[Places], npt.NDArray[np.float16]], places_M: Places, vector_D: Floats) -> Floats:
    score = np.empty(len(places_M), dtype=np.float32)
    for start in range(0, len(places_M), BLOCK):
        deadline.check()
        rows_BD = to_float32(rows(places_M[start : start + BLOCK]))
        lengths_B = np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD))
        # einsum, not @: for so little work BLAS threads cost more than they save, and on a busy machine they wait
        # for each other (56 ms instead of 8 for a thousand rows; by hand, 2026-11-21, two shared cores).
        score[start : start + BLOCK] = np.einsum("bd,d->b", rows_BD, vector_D) / np.where(lengths_B == 0, 1, lengths_B)
    return np.clip(score, -1, 1)


def to_float32(half: npt.NDArray[np.float16]) -> Floats:
    """Exact for finite values, at three times the speed of `astype`: the exponent is moved and then rebiased by
    2**(127 - 15), which is a multiplication."""
    bits = half.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # keep the sign and the 28 bits that were moved; drop the copies of the sign
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide
