"""How far an index is searched: measured when it is built, kept with it, looked at again, and believed within bounds.

Tables are small, so that they would never need their index: the constants that spare it are taken away.
"""

import json
import logging
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import query_data
from benchmarks.query_cases import CASES, query_vectors
from clipmill.jobs.indexing import curves, plan
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.centroids import sample
from clipmill.jobs.querying import nearest, roads
from clipmill.jobs.querying.curve import CONFIG_KEY, Curve, curve_of
from clipmill.jobs.querying.open import open_table

ROWS, DIM, QUERIES = 3000, 64, 16
ASKED = ("plain", "50 %", "tag, 8 %", "any of 60 far tags, 20 %")
QUIET = IndexOptions(kind="ivf_rq", measure_recall=False)


@pytest.fixture(autouse=True)
def through_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 64)
    monkeypatch.setattr(roads, "EXACT_MATCHES", 16)
    for name, value in (("EXACT_ROWS", 16), ("in_memory", lambda *_, **__: False)):
        monkeypatch.setattr(nearest, name, value)


def least_recall(uri: str, *kinds: str) -> float:
    """Of the cases, each by the public search beside an exact one; a query in turn of each kind of vectors."""
    table = open_table(uri)
    assert table.snapshot.vector_index("vector") is not None
    asked = [query_vectors(QUERIES, DIM, kind)[:QUERIES] for kind in kinds]
    found = []
    for name in ASKED:
        hits = 0
        for n in range(QUERIES):
            query_D = asked[n % len(asked)][n]
            ids, true_ids = (
                table.search(vector=query_D, columns=("id",), exact=exact, **CASES[name](n))["id"].to_pylist()
                for exact in (False, True)
            )
            hits += len(set(ids) & set(true_ids))
        found.append(hits / (10 * QUERIES))
    return min(found)


def add(uri: str, rows: int, kind: str) -> None:
    new = pa.Table.from_batches([next(query_data.chunks(rows, DIM, kind))])
    ids = pa.array([f"{kind} {rows} {n}" for n in range(rows)])
    lance.write_dataset(new.set_column(0, new.schema.field("id"), ids), f"{uri}.lance", mode="append")


def report_of(uri: str) -> dict[str, Any]:
    return json.loads(lance.dataset(f"{uri}.lance").config()[CONFIG_KEY + "vector"])


def put_report(uri: str, text: str) -> None:
    lance.dataset(f"{uri}.lance").update_config({CONFIG_KEY + "vector": text})


@pytest.mark.parametrize("kind", query_data.KINDS)
def test_the_nearest_are_found_under_every_filter_before_and_after_the_table_grew(tmp_path: Path, kind: str) -> None:
    uri = query_data.write(tmp_path, ROWS, DIM, kind)
    first = build_index(uri, QUIET).vectors[0]
    assert first.curve is not None
    assert first.curve.probes[0] < first.num_partitions, "an index that is searched whole is no index"
    assert report_of(uri)["curve"]["probes"] == list(first.curve.probes)
    assert least_recall(uri, kind) >= 0.97

    add(uri, ROWS // 20, kind)
    assert least_recall(uri, kind) >= 0.97, "beside rows that are in no index"
    assert build_index(uri, QUIET).vectors[0].curve == first.curve, "so few say nothing new"
    # As many again, of the other kind: what was measured says nothing of these.
    other = next(one for one in query_data.KINDS if one != kind)
    add(uri, ROWS, other)
    grown = build_index(uri, QUIET).vectors[0]
    assert grown.curve is not None
    assert (grown.done, grown.curve.rows) == ("extended", 2 * ROWS + ROWS // 20)
    assert least_recall(uri, kind, other) >= 0.97


def test_a_table_of_an_older_release_is_searched_as_it_was_until_its_index_is_looked_at(tmp_path: Path) -> None:
    uri = query_data.write(tmp_path, ROWS, DIM)
    built = build_index(uri, IndexOptions(kind="ivf_rq")).vectors[0]
    report = report_of(uri)
    del report["curve"]
    put_report(uri, json.dumps(report))
    index = open_table(uri).snapshot.vector_index("vector")
    assert index is not None
    assert index.curve is None
    assert roads.choose_road(index, matches=None, total=ROWS, depth=10, exact=False).probes == roads.BASE_PROBES
    again = build_index(uri, QUIET).vectors[0]  # as a run ends
    assert (again.done, again.curve, again.recall) == ("current", built.curve, built.recall)
    assert report_of(uri)["curve"]
    assert report_of(uri)["recall"] == report["recall"]
    version = lance.dataset(f"{uri}.lance").version
    assert build_index(uri, QUIET).version == version, "and then there is nothing to do"


GOOD: dict[str, Any] = {
    "ranks": [10, 20],
    "probes": [3, 5],
    "refine": 4,
    "kind": "IVF_RQ",
    "num_partitions": 93,
    "bits": 5,
    "rows": ROWS,
}
BAD: dict[str, Any] = {
    "a list": [],
    "no ranks": {**GOOD, "ranks": []},
    "ranks of another length": {**GOOD, "ranks": [10]},
    "ranks that fall": {**GOOD, "ranks": [20, 10]},
    "no partition": {**GOOD, "probes": [0, 5]},
    "more partitions than there are": {**GOOD, "probes": [3, 94]},
    "probes that fall": {**GOOD, "probes": [5, 3]},
    "a fraction": {**GOOD, "probes": [3, 5.5]},
    "a truth": {**GOOD, "refine": True},
    "without end": {**GOOD, "refine": 10**9},
    "words": {**GOOD, "ranks": "10 20"},
    "no kind": {**GOOD, "kind": None},
    "many points": {**GOOD, "ranks": list(range(1, 41)), "probes": [3] * 40},
    "a huge rank": {**GOOD, "ranks": [10, 10**300]},
}


def test_a_damaged_curve_is_ignored_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can write to a table can write anything into its config."""
    assert curve_of(GOOD) is not None
    assert not {name: raw for name, raw in BAD.items() if curve_of(raw) is not None}
    uri = query_data.write(tmp_path, 1500, DIM)
    built = build_index(uri, QUIET).vectors[0]
    whole = report_of(uri)
    said = {
        json.dumps({**whole, "curve": {**whole["curve"], "refine": 10**9}}): "damaged",
        "{": "damaged",
        "[" * 50_000: "damaged",
        "[]": "damaged",
        json.dumps({**whole, "curve": {**whole["curve"], "num_partitions": 10**6}}): "",  # of another index: no word
    }
    for text, word in said.items():
        put_report(uri, text)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            table = open_table(uri)
            assert len(table.search(vector=query_vectors(1, DIM, "clustered")[0], columns=("id",))) == 10
        index = table.snapshot.vector_index("vector")
        assert index is not None
        assert index.curve is None
        assert [word in record.message for record in caplog.records if "index of vector" in record.message] == (
            [True] if word else []
        )
        assert build_index(uri, QUIET).vectors[0].curve == built.curve, "and measured anew"


@given(st.floats(1, 1e9), st.floats(1, 1e9))
def test_more_is_never_looked_for_in_fewer_partitions(one: float, other: float) -> None:
    curve = Curve(
        ranks=(10, 20, 80), probes=(7, 7, 90), refine=4, kind="IVF_RQ", num_partitions=195, bits=5, rows=200_000
    )
    low, high = sorted((one, other))
    assert 7 <= curve.probes_for(low) <= curve.probes_for(high) <= 195
    assert [curve.probes_for(rank) for rank in (1, 10, 20, 40, 80, 320)] == [7, 7, 7, 49, 90, 180]


def test_a_large_table_is_judged_by_a_sample_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = query_data.write(tmp_path, ROWS, DIM)
    whole = build_index(uri, QUIET).vectors[0].curve
    monkeypatch.setattr(curves, "MAX_ROWS", ROWS // 4)
    part = build_index(uri, replace(QUIET, rebuild=True)).vectors[0].curve
    assert whole is not None
    assert part is not None
    assert part.probes != whole.probes
    assert np.abs(np.subtract(part.probes, whole.probes)).max() <= whole.num_partitions / 5


def test_a_training_sample_is_held_once(tmp_path: Path) -> None:
    """It is the largest thing that training holds: 128 MB for a million rows of 512."""
    dataset = lance.dataset(f"{query_data.write(tmp_path, 16_000, DIM)}.lance")
    tracemalloc.start()
    try:
        found = sample(dataset, "vector", 16_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(found), peak < 2 * found.nbytes) == (16_000, True)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_copies_do_not_make_the_search_deeper(tmp_path: Path) -> None:
    """Of many copies any ten are right, and that the index names others than brute force is no loss."""
    uri = query_data.write(tmp_path, 1500, DIM)
    dataset = lance.dataset(f"{uri}.lance")
    rows = dataset.to_table().slice(0, 40)
    rows = rows.take(pa.array(np.repeat(np.arange(40), 50)))
    lance.write_dataset(rows, f"{uri}.lance", mode="append")
    curve = build_index(uri, QUIET).vectors[0].curve
    assert curve is not None
    assert curve.refine == roads.REFINE[5]
