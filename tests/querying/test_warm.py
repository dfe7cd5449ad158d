"""What a server keeps at hand: vectors in a file of nobody's, and the vectors of words that were asked before."""

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.query_data import write
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import nearest, roads
from clipmill.jobs.querying.at_hand import warm
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.querying.versions import open_snapshot
from clipmill.schemas.errors import VersionGone
from tests.tables import DIM, TableOptions, WordEngine, append, make_table


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_table(tmp_path_factory.mktemp("warm"), TableOptions(rows=300))


def hits(table: Table) -> list[tuple[str, float]]:
    found = table.search("red shoe", k=20, any_tags=("red", "blue"))
    return list(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True))


def test_vectors_at_hand_lie_in_a_file_or_where_the_disk_is_full_in_memory(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = open_table(uri, engine=WordEngine())
    assert table.warm()
    held = table.snapshot.warm["vector"].sketch.bytes_ND
    assert list(tmp_path.iterdir()) == [], "a name in the folder would outlive the process"
    lines = Path("/proc/self/maps").read_text().splitlines()
    ours = [line.split()[0].split("-") for line in lines if f"{tmp_path}/" in line and "(deleted)" in line]
    assert any(int(first, 16) <= held.ctypes.data < int(last, 16) for first, last in ours), "not of the file"
    from_file = hits(table)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert table.warm()
    assert hits(table) == from_file


@pytest.mark.counted
def test_a_row_at_hand_takes_a_byte_a_value_and_little_of_the_processs_own(tmp_path: Path) -> None:
    rows, dim = 20_000, 512
    table = open_table(write(tmp_path, rows, dim))
    tracemalloc.start()
    try:
        assert table.warm()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    warm = table.snapshot.warm["vector"]
    assert warm.nbytes == rows * (dim + 16)
    assert held < rows * 20 + 1_000_000, "bytes are of the file, the rest is ids and scales"
    assert peak < held + 40_000_000, "what is read goes into its place in pieces"
    table.search(vector=np.ones(dim), k=20, exact=True)
    table.search(vector=np.ones(dim), k=20, where="bucket < 100")
    kept = sum(value.nbytes for value in table.snapshot.subsets._values.values())
    assert kept == 0, "rows that pass a filter are not kept once more"


def test_what_is_compared_exactly_is_what_a_script_finds(tmp_path: Path) -> None:
    """Filters that leave few rows, all rows, and captions of which more have the same words than are looked at."""
    uri = make_table(tmp_path, TableOptions(rows=600))
    build_index(uri)
    script, server = (open_table(uri, engine=WordEngine()) for _ in range(2))
    assert server.warm()
    for options in ({"where": "views < 100"}, {"exact": True}, {"hybrid": True}, {"hybrid": True, "any_tags": "red"}):
        for offset in (0, 15):
            asked = {"k": 15, "offset": offset, "columns": ("id",), **options}
            found = [table.search("red shoe", **asked) for table in (script, server)]
            assert found[0].num_rows == 15
            assert found[0]["id"].to_pylist() == found[1]["id"].to_pylist(), options
            np.testing.assert_allclose(
                found[0]["score"].to_numpy(), found[1]["score"].to_numpy(), atol=1e-4
            )  # Lance ranks in float16


def test_where_memory_is_short_a_server_says_so_and_answers_all_the_same(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(uri, engine=WordEngine())
    assert not table.warm(memory_bytes=1_000)
    assert table.cold.startswith("vectors of vector take 0 MB of memory, more than the 0 MB they may (--memory)")
    monkeypatch.setattr("clipmill.jobs.querying.at_hand.warm.available_bytes", lambda: 5_000)
    assert not table.warm()
    told = "of memory, queries some 250 MB, and here are 0 MB free, so the system may end this process"
    assert table.cold.endswith(told)
    assert (table.snapshot.warm, len(hits(table))) == ({}, 20)
    monkeypatch.undo()
    assert table.warm()
    assert table.cold == ""


def test_what_must_fit_is_what_loading_takes_and_the_index_only_where_searches_ask_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 600
    uri = make_table(tmp_path, TableOptions(rows=rows))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    vectors = rows * (DIM + 64) + 250_000_000
    free = [vectors]
    monkeypatch.setattr("clipmill.jobs.querying.at_hand.warm.available_bytes", lambda: free[0])
    assert open_table(uri).warm(), "few rows are looked at: the index is not loaded"
    free[0] -= 1
    table = open_table(uri)
    assert not table.warm()
    assert table.cold.startswith("vectors take ")
    monkeypatch.setattr(nearest, "WIDE", 0)
    index = table.snapshot.index_bytes("vector")
    for free[0], fits in ((vectors, False), (vectors + index, True)):
        table = open_table(uri)
        assert table.warm() == fits
        assert fits or table.cold.startswith("vectors and index take ")


def test_words_are_embedded_once(uri: str) -> None:
    engine = WordEngine()
    table = open_table(uri, engine=engine)
    hits(table)
    hits(table)
    assert engine.texts_seen == 2, "a script is asked once, and keeps nothing"
    table.remember_words()
    first = hits(table)
    assert hits(table) == first
    assert engine.texts_seen == 3
    table.search(["red shoe", "hat"], negative="red shoe")
    assert engine.texts_seen == 5, "two texts together are another question; those to be unlike are remembered"
    table.remember_words(memory_bytes=1_000)
    for n in range(4):
        table.search(f"red {n}")
    table.search("red 0")
    assert engine.texts_seen == 10, "what is kept has a bound"


def test_words_are_embedded_anew_by_another_model(uri: str) -> None:
    table = open_table(uri, engine=WordEngine())
    table.remember_words()
    hits(table)
    other = WordEngine(weights="others")  # as after a promotion, which puts another model's vectors in place
    table._engine = other
    table.snapshot.fingerprint = lambda _: other.fingerprint  # type: ignore[method-assign]
    hits(table)
    assert other.texts_seen == 1


@pytest.mark.parametrize("at_hand", [True, False])
def test_what_few_of_a_large_table_pass_is_read_once_or_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_hand: bool
) -> None:
    """As of ten million rows 12,001 to 20,000: too many for any table, few of so large a one."""
    uri = make_table(tmp_path, TableOptions(rows=6000))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    for module, name, value in (
        (roads, "EXACT_MATCHES", 20),
        (nearest, "EXACT_ROWS", 40),
        (roads, "_READING_COST", 30),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(roads, "MAX_PROPOSED", 500)
    table = open_table(uri, engine=WordEngine())
    assert not at_hand or table.warm()
    reads: list[str] = []
    real = warm._batches
    monkeypatch.setattr(warm, "_batches", lambda *given: [reads.append(given[2]), real(*given)][1])
    answers = [table.search("red dog", k=10, where="views < 150", columns=("id",))["id"].to_pylist() for _ in range(2)]
    assert len(reads) == (0 if at_hand else 1)
    exact = table.search("red dog", k=10, where="views < 150", columns=("id",), exact=True)["id"].to_pylist()
    assert answers == [exact, exact]


@pytest.mark.parametrize("changed", [False, True])
def test_rows_at_hand_are_those_of_the_table_in_the_order_of_the_hits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Of a table whose ids have gaps and come in another order, too; a column that is not at hand is the table's."""
    monkeypatch.setattr("clipmill.jobs.querying.at_hand.rows._BATCH", 64)
    uri = make_table(tmp_path, TableOptions(rows=300))
    if changed:
        dataset = lance.dataset(f"{uri}.lance")
        dataset.delete("views < 20")
        dataset.update({"caption": "'a red shoe again'"}, where="views < 200")
    script, server = (open_table(uri, engine=WordEngine()) for _ in range(2))
    assert server.warm(rows=True)
    held = server.snapshot.rows
    assert held is not None
    assert (held._by_id is None) != changed
    assert held.take(np.array([0, 10**9], np.uint64), ("id",)) is None, "there is no such row"
    asked: list[list[str]] = []
    real = lance.LanceDataset._take_rows

    def taken(self: lance.LanceDataset, row_ids: list[int], columns: list[str]) -> pa.Table:
        asked.append(columns)
        return real(self, row_ids, columns)

    for columns in (None, ("caption", "id"), ("tags",), ("vector", "id")):
        answers = []
        for table in (script, server):
            monkeypatch.setattr(lance.LanceDataset, "_take_rows", real if table is script else taken)
            found = table.search("red shoe", k=40, min_score=-1, columns=columns)
            assert len(found) == 40
            answers.append(found.drop_columns("score"))
        assert answers[0].equals(answers[1], check_metadata=True), columns
    assert asked == [["vector", "id"]]


def test_rows_are_at_hand_only_where_there_is_room_for_them(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = open_table(uri, engine=WordEngine())
    assert table.warm(rows=True)
    vectors, cold = table.snapshot.warm["vector"].nbytes, hits(table)
    assert list(tmp_path.iterdir()) == [], "a name in the folder would outlive the process"
    assert table.warm(rows=True, memory_bytes=vectors + 10_000)
    assert table.snapshot.rows is None
    assert hits(table) == cold
    assert not table.warm(rows=True, memory_bytes=1_000)
    assert table.snapshot.rows is None, "nor where vectors have no room, though a few rows would have"
    monkeypatch.setattr("clipmill.jobs.querying.at_hand.rows._write", full)
    assert table.warm(rows=True)
    assert table.snapshot.rows is None


def test_a_search_of_rows_at_hand_asks_the_tables_store_nothing(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=300))
    vectors_only, server = (open_table(uri, engine=WordEngine()) for _ in range(2))
    assert vectors_only.warm()
    assert server.warm(rows=True)
    for file in Path(f"{uri}.lance", "data").iterdir():
        file.unlink()
    assert len(server.search("red shoe", k=5)) == 5
    with pytest.raises(VersionGone):
        vectors_only.search("red shoe", k=5)


def test_a_search_is_quick_where_few_rows_are_looked_at_and_all_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1500))
    table = open_table(uri)
    columns = table.snapshot.default_columns()

    def quick(depth: int = 10, columns: tuple[str, ...] = columns) -> bool:
        return nearest.is_quick(table.snapshot, "vector", depth, columns)

    assert not quick(), "nothing is at hand"
    assert table.warm()
    assert not quick(), "rows are not"
    assert table.warm(rows=True)
    assert quick()
    assert not quick(depth=101)
    assert not quick(columns=("id", "vector")), "vectors of rows come from the table"
    widest = table.snapshot.rows.widest(("caption",)) if table.snapshot.rows else 0
    captions = table.get([f"row-{n:06d}" for n in range(1500)])["caption"].to_pylist()
    assert widest == max(len(text or "") for text in captions)
    with monkeypatch.context() as change:
        change.setattr(nearest, "_FEW_BYTES", 10 * widest)
        assert quick(columns=("caption",))
        assert not quick(columns=("caption", "id")), "that much to write keeps all others waiting"
    monkeypatch.setattr(nearest, "_FEW", 1_000)
    assert not quick(), "without an index all rows are looked at"
    build_index(uri, IndexOptions(kind="ivf_rq"))
    assert table.refresh()
    index = table.snapshot.vector_index("vector")
    assert index is not None
    looked = index.curve.probes_for(10) / index.num_partitions * 1500 if index.curve else 0
    assert 0 < looked < 1_000
    assert quick()
    append(uri, TableOptions(rows=1_000, start=1_500))
    assert table.refresh()
    assert not quick(), "rows that no partition holds are looked at by every search"


def test_a_newer_version_is_put_in_place_at_once_and_filled_by_the_next_refresh(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=60))
    table = open_table(uri, engine=WordEngine())
    assert table.warm(rows=True)
    assert not table.renew()
    append(uri, TableOptions(rows=20, start=60))
    assert table.renew()
    assert (table.num_rows, table.snapshot.warm) == (80, {})
    assert len(table.search("red shoe")) == 10
    assert table.refresh()
    assert (table.num_rows, len(table.snapshot.warm["vector"]), table.snapshot.rows is not None) == (80, 79, True)
    assert not table.refresh()


def test_what_was_being_filled_does_not_take_the_place_of_a_newer_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make_table(tmp_path, TableOptions(rows=60))
    table = open_table(uri, engine=WordEngine())
    assert table.warm()
    append(uri, TableOptions(rows=20, start=60))
    load = warm.load

    def beside(*asked: Any) -> Any:
        monkeypatch.setattr(warm, "load", load)
        append(uri, TableOptions(rows=20, start=80))
        assert table.renew()
        return load(*asked)

    monkeypatch.setattr(warm, "load", beside)
    table.refresh()
    assert table.num_rows == 100
    assert table.refresh()
    assert (table.num_rows, bool(table.snapshot.warm)) == (100, True)


@pytest.mark.parametrize("slow", ["refresh", "renew"])
def test_who_found_an_older_version_does_not_put_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """One looks in the background, another for a query; opening takes its time where the table is in a store."""
    uri = make_table(tmp_path, TableOptions(rows=60))
    table = open_table(uri, engine=WordEngine())
    append(uri, TableOptions(rows=20, start=60))

    def beside(*asked: Any) -> Any:
        monkeypatch.undo()
        older = open_snapshot(*asked)
        append(uri, TableOptions(rows=20, start=80))
        assert table.renew() if slow == "refresh" else table.refresh()
        return older

    monkeypatch.setattr("clipmill.jobs.querying.table.open_snapshot", beside)
    assert table.refresh() if slow == "refresh" else table.renew()
    assert table.num_rows == 100
    table.refresh()
    assert (table.num_rows, table.refresh()) == (100, False)
