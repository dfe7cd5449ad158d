"""Copies by bytes and near copies by vector; which one stays; through the index and by comparing every pair."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

import clipmill.jobs.exploring.dedup
import clipmill.jobs.indexing.centroids
from clipmill.jobs.exploring.dedup import dedup, keep_list
from clipmill.jobs.querying.open import open_table
from clipmill.schemas.errors import UserError
from tests.tables import TableOptions, batch


@pytest.fixture
def table(tmp_path: Path):
    """400 rows: 10-14 are near copies of row 5, 20-21 have the bytes of row 19, the rest are unlike."""
    rows = batch(TableOptions(rows=400, noise=3.0))
    vectors = [np.asarray(v, np.float32) if v is not None else None for v in rows["vector"].to_pylist()]
    rng = np.random.default_rng(5)
    for n in range(10, 15):
        noisy = vectors[5] + 0.05 * rng.standard_normal(64).astype(np.float32) / 8
        vectors[n] = noisy / np.linalg.norm(noisy)
    hashes = [f"{n:032x}" for n in range(400)]
    hashes[20] = hashes[21] = hashes[19]
    widths = [100] * 400
    widths[12] = 900
    for name, values in (("vector", vectors), ("image_hash", hashes), ("width", widths)):
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(name)
        made = [None if v is None else v.astype(np.float16) for v in values] if name == "vector" else values
        rows = rows.set_column(place, field, pa.array(made, field.type))
    lance.write_dataset(rows, tmp_path / "images.lance", enable_stable_row_ids=True)
    return open_table(str(tmp_path / "images"))


def groups(report) -> dict[int, list[tuple[str, bool, str]]]:
    found: dict[int, list[tuple[str, bool, str]]] = {}
    for row in report.groups.to_pylist():
        found.setdefault(row["group"], []).append((row["id"][-2:], row["keep"], row["how"]))
    return found


EXPECTED = [
    [("12", True, "exact"), *((f"{n:02d}", False, "near") for n in (5, 10, 11, 13, 14))],
    [("19", True, "exact"), ("20", False, "exact"), ("21", False, "exact")],
]


def test_copies_and_near_copies_are_grouped_and_the_largest_stays(table) -> None:
    report = dedup(table)
    assert list(groups(report).values()) == EXPECTED
    assert (report.rows, report.exact, report.near, report.surplus) == (400, 2, 5, 7)
    kept = keep_list(table, report)["id"].to_pylist()
    assert len(kept) == 393
    assert {"row-000012", "row-000019"} <= set(kept)
    assert not {"row-000005", "row-000020"} & set(kept)


def test_cut_into_clusters_the_groups_are_the_same(table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipmill.jobs.exploring.dedup, "SMALL_ROWS", 10)
    monkeypatch.setattr(clipmill.jobs.exploring.dedup, "ROWS_PER_CLUSTER", 50)
    assert list(groups(dedup(table)).values()) == EXPECTED


def test_copies_are_found_although_no_row_that_is_drawn_points_anywhere(table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipmill.jobs.exploring.dedup, "SMALL_ROWS", 10)
    monkeypatch.setattr(clipmill.jobs.exploring.dedup, "ROWS_PER_CLUSTER", 50)
    monkeypatch.setattr(clipmill.jobs.indexing.centroids, "SAMPLES_PER_PARTITION", 1)
    nowhere = f"arrow_cast({[0.0] * 64}, 'FixedSizeList(64, Float16)')"
    table.snapshot.dataset.update({"vector": nowhere}, where="views NOT IN (5, 10, 11)")
    report = dedup(open_table(table.uri))
    assert (report.exact, report.near) == (2, 2)


def test_exact_only_first_wins_and_filters_hold(table) -> None:
    report = dedup(table, threshold=1.1)
    assert list(groups(report).values()) == EXPECTED[1:]
    first = dedup(table, prefer="first", where="views >= 11")
    assert next(iter(groups(first).values()))[0] == ("11", True, "exact")
    assert len(next(iter(groups(first).values()))) == 4


def test_nothing_alike_and_senseless_thresholds(table) -> None:
    assert dedup(table, where="views > 50").groups.num_rows == 0
    assert dedup(table, where="views > 10000").rows == 0
    with pytest.raises(UserError, match="threshold"):
        dedup(table, threshold=0.1)
