"""Vectors at hand by the partitions of an index: which rows lie where, and that nothing is missed among them."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.indexing import plan
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import indexed, nearest, roads
from clipmill.jobs.querying.at_hand import marked
from clipmill.jobs.querying.at_hand.marked import Marked
from clipmill.jobs.querying.at_hand.sketch import Sketch, WarmVectors, _cut, _dots, sketch_rows
from clipmill.jobs.querying.at_hand.vector_file import VectorFile
from clipmill.jobs.querying.at_hand.warm import marks
from clipmill.jobs.querying.open import Query, Table, open_table
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.querying.vectors import as_rows, normalise
from tests.tables import DIM, TableOptions, WordEngine, append, batch, make_table

DEPTH = 10


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many partitions, of which few are searched, in a table of test size."""
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 50)
    for name, value in (("EXACT_MATCHES", 16), ("BASE_PROBES", 3), ("MAX_WIDENING", 1.0)):
        monkeypatch.setattr(roads, name, value)
    monkeypatch.setattr(nearest, "EXACT_ROWS", 16)


def served(uri: str) -> Table:
    table = open_table(uri, engine=WordEngine())
    assert table.warm(), table.cold
    return table


def ids(table: Table, **asked: Any) -> list[str]:
    found: list[str] = table.search("red shoe", k=DEPTH, columns=("id",), **asked)["id"].to_pylist()
    return found


def stored(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Row ids and unit vectors of the rows that have one."""
    rows = table.snapshot.dataset.scanner(columns=["vector"], filter="vector IS NOT NULL", with_row_id=True).to_table()
    return rows[ROW_ID].to_numpy(), normalise(as_rows(rows["vector"], DIM))


def test_rows_lie_in_their_index_s_partitions_and_others_in_none(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    dataset = lance.dataset(f"{uri}.lance")
    append(uri, TableOptions(rows=60, start=1500))
    dataset = lance.dataset(f"{uri}.lance")
    dataset.delete("views >= 100 AND views < 120")
    written = batch(TableOptions(rows=40, start=200))
    away = pa.array((-as_rows(written["vector"], DIM)).astype(np.float16).reshape(-1))
    away = pa.FixedSizeListArray.from_arrays(away, type=written.schema.field("vector").type)
    written = written.set_column(written.schema.get_field_index("vector"), written.schema.field("vector"), away)
    dataset.merge_insert("id").when_matched_update_all().execute(written)
    table = served(uri)
    known = indexed.read(table.snapshot, "vector")
    assert known is not None
    row_ids_N, vectors_ND = stored(table)
    none = len(known.centroids_PD)
    places = table.snapshot.dataset.scanner(columns=["id", "views"], with_row_id=True).to_table().to_pydict()
    views = dict(zip(places[ROW_ID], places["views"], strict=True))
    new_N = np.array([views[i] >= 1500 or 200 <= views[i] < 240 for i in row_ids_N.tolist()])
    expected_N = np.where(new_N, none, np.argmax(vectors_ND @ known.centroids_PD.T, axis=1))
    np.testing.assert_array_equal(known.partitions(row_ids_N), expected_N)
    warm = table.snapshot.warm["vector"]
    assert sorted(warm.row_ids_N.tolist()) == sorted(row_ids_N.tolist())
    assert warm.cells is not None
    held = [set(warm.row_ids_N[a:b].tolist()) for a, b in zip(warm.cells.starts, warm.cells.starts[1:], strict=False)]
    assert held == [set(row_ids_N[expected_N == p].tolist()) for p in range(none + 1)]
    # A row that was written again is found where its vector is now, and not where it was.
    for _ in range(2):
        for n in range(0, 40, 5):
            again = np.asarray(written["vector"][n].as_py(), np.float32)
            assert table.search(vector=again, k=1, columns=("id",))["id"].to_pylist() == [written["id"][n].as_py()]
        build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))  # which then names them in two partitions
        table = served(uri)
        known = table.snapshot.vector_index("vector")
        assert known is not None
        table.snapshot.assume("vector", replace(known, curve=None))


def test_where_all_rows_were_written_again_since_they_are_all_looked_at(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=300))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    written = batch(TableOptions(rows=300, seed=9))
    lance.dataset(f"{uri}.lance").merge_insert("id").when_matched_update_all().execute(written)
    table = served(uri)
    cells = table.snapshot.warm["vector"].cells
    assert cells is not None
    assert cells.starts[-2] == 0
    assert ids(table) == ids(table, exact=True)


def test_pages_of_copies_repeat_none_where_some_of_them_pass(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    copies = batch(TableOptions(rows=600, start=1500))
    same = pa.array([copies["vector"][0].as_py()] * 600, copies.schema.field("vector").type)
    copies = copies.set_column(copies.schema.get_field_index("vector"), copies.schema.field("vector"), same)
    lance.write_dataset(copies, f"{uri}.lance", mode="append")
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    table = served(uri)
    asked = {"vector": np.asarray(same[0].as_py(), np.float32), "where": "views % 3 > 0", "columns": ("id",)}
    seen: list[str] = []
    for offset in range(0, 100, DEPTH):
        seen += table.search(k=DEPTH, offset=offset, **asked)["id"].to_pylist()
    assert seen == table.search(k=100, exact=True, **asked)["id"].to_pylist()


@pytest.mark.parametrize("dim", [64, 512, 4096])
def test_a_column_without_a_vector_is_put_in_order_too(dim: int) -> None:
    """As after all rows that had one were deleted; 64 rows end where a page does."""
    file = VectorFile.make(64, dim, arranged=True)
    assert file is not None
    file.arrange(np.empty(0, np.uint32))
    assert file.bytes_ND.shape == (64, dim)


@pytest.mark.parametrize("where", [None, "views % 7 < 4", "views >= 1490"])
def test_the_nearest_of_the_partitions_looked_into_are_found_all(tmp_path: Path, where: str | None) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    append(uri, TableOptions(rows=60, start=1500))
    table = served(uri)
    index = table.snapshot.vector_index("vector")
    known = indexed.read(table.snapshot, "vector")
    assert index is not None
    assert known is not None
    table.snapshot.assume("vector", replace(index, curve=None))  # so that three partitions are looked into
    row_ids_N, vectors_ND = stored(table)
    passes = table.snapshot.dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()[ROW_ID].to_numpy()
    partition_N = known.partitions(row_ids_N)
    for words in ("red shoe", "blue hat", "green dog boat"):
        query_D = WordEngine().encode_texts([words])[0]
        near = np.argsort(-(known.centroids_PD @ query_D))[: roads.BASE_PROBES]
        looked_N = np.isin(partition_N, [*near, len(known.centroids_PD)]) & np.isin(row_ids_N, passes)
        score = np.sort((vectors_ND @ query_D)[looked_N])[-DEPTH:][::-1]
        road = roads.choose_road(
            replace(index, curve=None, unindexed_rows=0),
            matches=table.count(where) if where else None,
            total=table.num_rows,
            depth=DEPTH,
            exact=False,
        )
        found = nearest._in_cells(table.snapshot, "vector", query_D, DEPTH, where, road)
        if found is None:
            assert where == "views >= 1490", "a filter that has nothing to do with the query is not at odds with it"
            continue
        np.testing.assert_allclose(np.sort(found[1])[::-1][:DEPTH], score, atol=1e-3)  # of float16


def test_what_lies_far_from_the_query_is_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else, where tags at hand say that nothing near the query passes."""
    uri = make_table(tmp_path, TableOptions(rows=3000))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    table, looked = served(uri), []
    look = WarmVectors.look
    monkeypatch.setattr(WarmVectors, "look", lambda *given: [looked.append(1), look(*given)][1])
    assert len(ids(table)) == DEPTH
    assert looked.pop()
    for words, tag in (("red shoe", "boat"), ("blue hat", "tree"), ("green dog", "car"), ("white house", "black")):
        found = table.search(words, any_tags=(tag,), columns=("id",))["id"].to_pylist()
        assert found == table.search(words, any_tags=(tag,), columns=("id",), exact=True)["id"].to_pylist()
    assert len(looked) <= 1, "none but where some of the nearest partitions do"


def test_put_at_hand_again_in_another_order_the_same_rows_have_a_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    table = served(uri)
    predicate = table.predicate(Query(any_tags=("red",)))
    assert predicate is not None

    def having() -> list[int]:
        found = marks(table.snapshot, "vector", predicate)
        return sorted(table.snapshot.warm["vector"].row_ids_N[found.marks_N].tolist())

    first, order, before = having(), table.snapshot.warm["vector"].row_ids_N, table.snapshot
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert table.warm()
    assert before.warm["vector"].row_ids_N is order, "a search that is under way has what it began with"
    assert (table.snapshot.warm["vector"].row_ids_N != order).any()
    assert having() == first


def test_the_index_itself_is_not_asked_by_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    script = open_table(uri, engine=WordEngine())
    loaded: list[str] = []
    monkeypatch.setattr(lance.LanceDataset, "prewarm_index", lambda _, name: loaded.append(name))
    table = served(uri)
    monkeypatch.setattr(nearest, "_by_lance", lambda *_: pytest.fail("asked Lance"))
    monkeypatch.setattr(nearest, "_scan", lambda *_: pytest.fail("asked Lance"))
    for asked in ({}, {"where": "views < 700"}, {"any_tags": "red"}, {"exact": True}, {"where": "views < 3"}):
        assert len(ids(table, **asked)) == min(DEPTH, table.count(asked.get("where") or "true")), asked
    assert loaded == []
    monkeypatch.undo()
    assert set(ids(table)) == set(ids(script))


def test_where_most_partitions_are_looked_into_lance_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_table(tmp_path, TableOptions(rows=3000))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    monkeypatch.setattr(nearest, "WIDE", 10)
    loaded: list[str] = []
    monkeypatch.setattr(lance.LanceDataset, "prewarm_index", lambda _, name: loaded.append(name))
    table = served(uri)
    assert loaded == ["vector_idx"]
    asked: list[int] = []
    scan = nearest._scan
    monkeypatch.setattr(nearest, "_scan", lambda *given: [asked.append(1), scan(*given)][1])
    assert len(set(ids(table)) & set(ids(table, exact=True))) >= 8
    assert asked
    for words, tag in (("red shoe", "boat"), ("blue hat", "tree")):  # at odds: what passes is compared whole
        found = table.search(words, any_tags=(tag,), columns=("id",))["id"].to_pylist()
        assert found == table.search(words, any_tags=(tag,), columns=("id",), exact=True)["id"].to_pylist()


@pytest.mark.parametrize("kind", ["hnsw_sq", "unreadable", "foreign", "l2", "nan", "apart"])
def test_another_index_is_searched_by_lance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    if kind in ("foreign", "l2", "nan"):  # another tool's: of cosines its partitions are as good
        made: dict[str, Any] = {"num_partitions": 8, "num_sub_vectors": 8, "metric": "l2" if kind == "l2" else "cosine"}
        if kind == "nan":  # one centre of eight, given with the index
            first = lance.dataset(f"{uri}.lance").scanner(columns=["vector"], filter="vector IS NOT NULL", limit=8)
            made["ivf_centroids"] = normalise(as_rows(first.to_table()["vector"], DIM)).astype(np.float16)
            made["ivf_centroids"][3] = np.nan
        lance.dataset(f"{uri}.lance").create_index("vector", "IVF_PQ", **made)
    elif kind == "apart":  # as many partitions in both parts, but others
        append(uri, TableOptions(rows=1500, start=1500))
        dataset = lance.dataset(f"{uri}.lance")
        first = dataset.scanner(columns=["vector"], filter="vector IS NOT NULL", limit=60).to_table()["vector"]
        centres_PD = normalise(as_rows(first, DIM)).astype(np.float16)
        options = {"name": "vector_idx", "metric": "cosine", "num_partitions": 30}
        parts = [
            dataset.create_index_uncommitted(
                "vector", "IVF_FLAT", ivf_centroids=centres_PD[n * 30 :][:30], fragment_ids=[n], **options
            )
            for n in range(2)
        ]
        dataset.commit_existing_index_segments("vector_idx", "vector", parts)
    else:
        build_index(uri, IndexOptions(kind="hnsw_sq" if kind == "hnsw_sq" else "ivf_rq", measure_recall=False))
    if kind == "unreadable":
        monkeypatch.setattr(indexed, "_ids", lambda _: (_ for _ in ()).throw(OSError("no such file")))
    table = served(uri)
    assert (table.snapshot.warm["vector"].cells is not None) == (kind == "foreign")
    found, exact = ids(table), ids(table, exact=True)
    assert len(found) == DEPTH
    assert len(set(found) & set(exact)) >= 5


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=400), st.integers(1, 12))
def test_a_cut_never_takes_one_of_those_that_are_wanted(values: list[float], depth: int) -> None:
    values_S = np.array(values, np.float32)
    if len(values_S) <= depth:
        return
    assert _cut(values_S, depth) <= np.sort(values_S)[-depth]


@pytest.mark.parametrize("dim", [1, 3, 63, 64, 65, 100, 512, 768, 1024, 1152])
def test_products_of_bytes_are_whole_numbers(dim: int) -> None:
    """Of a library, at the ends of what a byte holds too: a product that were wrong would hide rows in silence."""
    rng = np.random.default_rng(dim)
    rows_BD = rng.integers(-127, 128, (130, dim), dtype=np.int8)
    queries_QD = rng.integers(-127, 128, (2, dim), dtype=np.int8)
    rows_BD[0], rows_BD[1], queries_QD[0] = 127, -127, 127
    out_QB = np.empty((2, 130), np.float32)
    _dots(queries_QD, rows_BD, out_QB)
    np.testing.assert_allclose(out_QB, queries_QD.astype(np.int64) @ rows_BD.T.astype(np.int64), rtol=2e-7)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=12), st.integers(1, 12))
def test_of_marked_rows_none_is_missed_in_stretches_or_alone(runs: list[tuple[int, int]], depth: int) -> None:
    """`runs`: rows that do not pass, then some that do."""
    marks_N = np.concatenate([np.zeros(0, bool), *(np.repeat([False, True], run) for run in runs)])
    rng = np.random.default_rng(len(marks_N))
    vectors_ND = rng.standard_normal((len(marks_N), 8)).astype(np.float16)
    centre_D = np.zeros(8, np.float32)
    row_ids_N = rng.permutation(len(marks_N)).astype(np.uint64)
    warm = WarmVectors(row_ids_N, Sketch(*sketch_rows(vectors_ND, centre_D), centre_D), lambda p, _: vectors_ND[p])
    query_D = np.eye(8, dtype=np.float32)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marked, "STRETCH", 16)
        found, score = warm.best_of(query_D, depth, Marked.made(marks_N, len(marks_N)))
    expected, truth = warm.cosines(query_D, row_ids_N[marks_N])
    assert set(found.tolist()) <= set(expected.tolist())
    best = np.sort(truth)[::-1][:depth]
    np.testing.assert_array_equal(np.sort(score)[::-1][:depth], best)
