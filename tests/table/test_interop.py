"""The lines of docs/interop.md that are marked T: what other tools make of float16 and of NaN.

A line that fails here has to be changed there."""

from pathlib import Path

import lance
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

DIM = 4096


def vectors(values_ND: npt.NDArray[np.float16]) -> pa.Table:
    dim = values_ND.shape[1]
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(values_ND.ravel()), dim)})


def test_polars_sums_arrays_in_float16_unless_cast() -> None:
    frame = pl.from_arrow(vectors(np.full((2, DIM), 1 / 64, np.float16)))
    assert isinstance(frame, pl.DataFrame)
    assert max(frame.select(pl.col("vector").arr.sum()).to_series().to_list()) < 64
    wide = pl.col("vector").cast(pl.Array(pl.Float32, DIM))
    assert frame.select(wide.arr.sum()).to_series().to_list() == [64, 64]


def test_pandas_keeps_float16_in_the_cells() -> None:
    cells = vectors(np.full((2, 512), 1 / 3, np.float16)).to_pandas()["vector"]
    assert cells[0].dtype == np.float16
    half, exact = float(cells[0] @ cells[1]), float(np.square(np.stack(cells).astype("float32")[0]).sum())
    assert (cells[0] @ cells[1]).dtype == np.float16
    assert half != exact


def test_nan_in_a_filter_goes_by_its_sign(tmp_path: Path) -> None:
    bits = np.array([0x3F800000, 0x7FC00000, 0xFFC00000], dtype=np.uint32)  # 1.0, NaN, NaN with the sign bit
    table = pa.table({"n": [0, 1, 2], "x": pa.array(bits.view(np.float32))})
    dataset = lance.write_dataset(table, str(tmp_path / "t.lance"))

    def passing(where: str) -> list[int]:
        return list(dataset.to_table(filter=where)["n"].to_pylist())

    assert passing("x > 5") == [1]
    assert passing("x < 5") == [0, 2]
    assert passing("x = x") == [0, 1, 2]
    assert passing("x > 5 AND NOT isnan(x)") == []
