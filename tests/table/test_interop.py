"""The lines of docs/interop.md that are marked T: what other tools make of float16, of NaN, of times, of cosines.

A line that fails here has to be changed there."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import lancedb
import lancedb.index
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interop.md").read_text()
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


def test_a_time_in_a_filter_is_read_in_the_zone_of_the_column(tmp_path: Path) -> None:
    hours = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (10, 12, 14)]  # in Berlin 11, 13, 15
    table = pa.table({
        "hour": [10, 12, 14],
        "utc": pa.array(hours, pa.timestamp("us", "UTC")),
        "berlin": pa.array(hours, pa.timestamp("us", "Europe/Berlin")),
    })  # fmt: skip
    dataset = lance.write_dataset(table, str(tmp_path / "t.lance"))

    def passing(where: str) -> list[int]:
        return list(dataset.to_table(filter=where)["hour"].to_pylist())

    assert passing("utc = timestamp '2026-01-01 12:00:00'") == [12]
    assert passing("utc = timestamp '2026-01-01T14:00:00+02:00'") == [12]
    # Of another column an offset only says which hour in UTC it is, and that hour is then one of Berlin's.
    assert passing("berlin = timestamp '2026-01-01T12:00:00Z'") == []
    assert passing("berlin = timestamp '2026-01-01T13:00:00Z'") == [12]
    assert passing("cast(berlin as timestamp) = timestamp '2026-01-01T12:00:00Z'") == [12]


def test_pandas_writes_vectors_without_their_length(tmp_path: Path) -> None:
    vectors(np.full((2, 8), 0.5, np.float16)).to_pandas().to_parquet(tmp_path / "t.parquet")
    assert pq.read_schema(tmp_path / "t.parquet").field("vector").type == pa.list_(pa.field("element", pa.float16()))


def test_duckdb_refuses_half_floats_of_arrow_and_reads_those_of_parquet_as_float(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    held = vectors(np.full((3, 8), 0.5, np.float16)).append_column("n", [[1, 2, 3]])
    pq.write_table(held, tmp_path / "t.parquet")
    with duckdb.connect() as connection:
        with pytest.raises(duckdb.NotImplementedException):
            connection.register("held", held).sql("SELECT n FROM held").fetchall()
        connection.register("wide", held.cast(held.schema.set(0, pa.field("vector", pa.list_(pa.float32(), 8)))))
        kinds = connection.sql("SELECT sum(n), any_value(typeof(vector)) FROM wide").fetchall()
        assert kinds == [(6, "FLOAT[8]")]
        connection.sql(f"COPY (SELECT * FROM '{tmp_path}/t.parquet') TO '{tmp_path}/back.parquet'")
    back = pq.read_schema(tmp_path / "back.parquet").field("vector").type
    assert (back.value_type, pa.types.is_fixed_size_list(back)) == (pa.float32(), False)


def searcher(folder: Path, index: str | None) -> tuple[Any, Callable[..., dict[int, float]], npt.NDArray[np.float32]]:
    """A plain client's table of 800 unit vectors of 32, number 100 of them zero; a search near number 17, as
    row number to `_distance`; the true cosine distances."""
    rng = np.random.default_rng(7)
    vectors_ND = rng.normal(size=(800, 32)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    vectors_ND[100] = 0
    rows = vectors(vectors_ND.astype(np.float16)).append_column("n", [list(range(800))])
    table = lancedb.connect(str(folder)).create_table("t", rows)
    if index is not None:
        config = getattr(lancedb.index, index)(distance_type="cosine", num_partitions=2)
        table.create_index("vector", config=config)

    def search(query: Any = vectors_ND[17], below: float | None = None, refine: int | None = None) -> dict[int, float]:
        asked = table.search(query.astype(np.float16)).distance_type("cosine").limit(801)
        asked = asked.nprobes(2) if index is not None else asked
        asked = asked.distance_range(None, below) if below is not None else asked
        found = (asked.refine_factor(refine) if refine else asked).to_arrow()
        return dict(zip(found["n"].to_pylist(), found["_distance"].to_pylist(), strict=True))

    return table, search, 1 - vectors_ND @ vectors_ND[17]


def ratio(found: dict[int, float], true_N: npt.NDArray[np.float32]) -> float:
    """Of `_distance` to the cosine distance, in the middle; the row itself is left out."""
    return float(np.median([distance / true_N[n] for n, distance in found.items() if true_N[n] > 0.05]))


@pytest.mark.parametrize(("index", "least"), [("IvfSq", 1.95), ("IvfRq", 1.2), ("IvfPq", 1.2)])
def test_a_quantised_index_doubles_cosine_distances(tmp_path: Path, index: str, least: float) -> None:
    table, search, true_N = searcher(tmp_path, index)
    assert least < ratio(search(), true_N) < 2.05
    assert ratio(search(refine=5), true_N) == pytest.approx(1, abs=0.02)
    near = int((true_N < 0.8).sum())
    assert near > 20
    # A range is of the doubled distances, refined or not, and also when those that come back are not doubled.
    assert len(search(below=0.8)) < near / 2
    assert len(search(below=0.8, refine=5)) < near / 2
    table.add(table.to_arrow().slice(0, 1))
    assert ratio(search(), true_N) == pytest.approx(1, abs=0.02)
    assert len(search(below=0.8)) < near / 2


def test_without_quantisation_a_cosine_distance_is_one(tmp_path: Path) -> None:
    for index in (None, "IvfFlat"):
        _, search, true_N = searcher(tmp_path / str(index), index)
        assert ratio(search(), true_N) == pytest.approx(1, abs=0.02)
        assert len(search(below=0.8)) == int((true_N < 0.8).sum())


def test_zero_vectors_are_found_by_no_search_and_find_what_the_index_makes_of_them(tmp_path: Path) -> None:
    nothing = np.zeros(32, np.float32)
    for index, finds in ((None, 0), ("IvfFlat", 0), ("IvfSq", 799)):
        _, search, _ = searcher(tmp_path / str(index), index)
        assert set(range(800)) - set(search()) == {100}, index
        found = search(nothing)
        assert len(found) == finds, index
        assert not found or min(found.values()) > 2, "no cosine distance is over 2"


def test_the_page_names_the_versions_that_are_pinned() -> None:
    """By requirements.lock, with which the tests run; those of the lowest versions run them too."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    names = {"polars": "polars", "pandas": "pandas", "duckdb": "duckdb", "Lance": "pylance", "LanceDB": "lancedb"}
    lines = re.findall(r"^\| (\w+) (\S+).* \| T(?:, F .*)? \|$", PAGE, re.M)
    assert {tool for tool, _ in lines} == set(names)
    assert [version for _, version in lines] == [pins[names[tool]] for tool, _ in lines]
