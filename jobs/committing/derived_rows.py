"""Batches of vectors as they are computed with, and of what follows from them as a fragment's file has it. N: rows. D:
dimension."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def unit_rows(stored: pa.Array, dim: int) -> npt.NDArray[np.float32]:
    """(N, D), unit length as embed tags them; NaN where there is no vector."""
    valid_N = np.asarray(stored.is_valid())
    rows_ND = np.full((len(stored), dim), np.nan, np.float32)
    rows_ND[valid_N] = stored.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    lengths_N = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.where(lengths_N == 0, 1, lengths_N), np.float32)


def spread(
    values: Sequence[pa.Array], place_N: npt.NDArray[np.int64], length: int, schema: pa.Schema
) -> pa.RecordBatch:
    """`length` rows: those at `place_N` as given, null between them."""
    if len(place_N) == length:  # nothing was deleted between them
        return pa.RecordBatch.from_arrays(list(values), schema=schema)
    source = np.full(length, -1, np.int64)
    source[place_N] = np.arange(len(place_N))
    index = pa.array(source, mask=source < 0)
    return pa.RecordBatch.from_arrays([one.take(index) for one in values], schema=schema)
