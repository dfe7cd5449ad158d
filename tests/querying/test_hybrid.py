"""Full text and vectors as one ranking: its pages join, its filters hold, and nothing of it is missing."""

import os
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.indexing.build import build_index
from clipmill.jobs.querying import deadline, hybrid
from clipmill.jobs.querying.hybrid import RRF_K, WINDOW, fuse
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.querying.words import full_text
from tests.tables import DIM, TableOptions, WordEngine, append, batch, make_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """1,000 rows of which 989 have a vector; captions indexed, vectors compared one by one."""
    uri = make_table(tmp_path_factory.mktemp("hybrid"), TableOptions(rows=1000))
    build_index(uri)
    return open_table(uri, engine=WordEngine())


@pytest.mark.parametrize("text_weight", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("page", [10, 70])
def test_pages_are_of_one_ranking(table: Table, page: int, text_weight: float) -> None:
    """Every row once, in the order of one deep question."""
    fields = {"hybrid": True, "text_weight": text_weight, "columns": ("id",)}
    whole = table.search("red shoe", k=420, **fields)
    pages = [
        row for n in range(0, 420, page) for row in table.search("red shoe", k=page, offset=n, **fields).to_pylist()
    ]
    assert [row["id"] for row in pages] == whole["id"].to_pylist()
    assert len({row["id"] for row in pages}) == 420
    ranks = [row["rank_score"] for row in pages]
    assert ranks == sorted(ranks, reverse=True)


def test_the_pages_hold_every_row_there_is(table: Table) -> None:
    found = [
        i
        for n in range(0, 1100, 100)
        for i in table.search("red shoe", hybrid=True, k=100, offset=n, columns=("id",))["id"].to_pylist()
    ]
    assert len(found) == len(set(found)) == table.count() - 11  # rows without a vector are hidden


def test_pages_hold_every_row_once_where_all_pictures_are_copies(tmp_path: Path) -> None:
    """Cosines of the two halves differ in the last digits, which settle nothing then."""
    rows = batch(TableOptions(rows=250))
    same = pa.array([rows["vector"][0].as_py()] * 250, rows.schema.field("vector").type)
    rows = rows.set_column(rows.schema.get_field_index("vector"), rows.schema.field("vector"), same)
    lance.write_dataset(rows, f"{tmp_path}/images.lance", enable_stable_row_ids=True, data_storage_version="2.2")
    build_index(f"{tmp_path}/images")
    table = open_table(f"{tmp_path}/images", engine=WordEngine())
    asked = {"text": "red shoe", "like": "row-000000", "hybrid": True, "k": 50, "columns": "id"}
    found = [i for n in range(0, 250, 50) for i in table.search(offset=n, **asked)["id"].to_pylist()]
    assert len(found) == len(set(found)) == 249


def test_pages_hold_every_row_once_where_many_have_no_vector(tmp_path: Path) -> None:
    """A fifth of the captions is of rows that are hidden, of zeros (as another client may write them) or of none."""
    rows = batch(TableOptions(rows=330))
    vectors = [v if n % 5 else [None, [0.0] * DIM][n % 2] for n, v in enumerate(rows["vector"].to_pylist())]
    made = pa.array(vectors, rows.schema.field("vector").type)
    rows = rows.set_column(rows.schema.get_field_index("vector"), rows.schema.field("vector"), made)
    lance.write_dataset(rows, f"{tmp_path}/images.lance", enable_stable_row_ids=True, data_storage_version="2.2")
    build_index(f"{tmp_path}/images")
    append(f"{tmp_path}/images", TableOptions(rows=30, start=330))  # whose words weigh otherwise, without an index
    script, server = (open_table(f"{tmp_path}/images", engine=WordEngine()) for _ in range(2))
    assert server.warm()
    shown = sum(vector is not None and any(vector) for vector in vectors) + 30
    for asked in (
        {"hybrid": True, "text": "number"},
        {"text": "red shoe"},
        {"text": "red shoe", "where": "views < 200"},
    ):
        pages = [
            [
                i
                for n in range(0, 360, 20)
                for i in table.search(k=20, offset=n, columns="id", **asked)["id"].to_pylist()
            ]
            for table in (script, server)
        ]
        assert sorted(pages[0]) == sorted(pages[1])
        assert len(pages[0]) == len(set(pages[0])) <= shown
        assert "where" in asked or len(pages[0]) == shown


@pytest.mark.parametrize("k", [1, 99, 100, 101, 400])
def test_as_many_hits_as_were_asked_for(table: Table, k: int) -> None:
    assert len(table.search("red shoe", hybrid=True, k=k, columns=("id",))) == k


def test_a_least_score_is_applied_to_the_whole_ranking_and_not_to_its_first_rows(table: Table) -> None:
    """With the captions' weight alone the first hundreds are rows whose vectors may be far."""
    fields = {"hybrid": True, "text_weight": 1.0, "columns": ("id",)}
    whole = table.search("number", k=989, **fields).to_pylist()
    least = sorted(row["score"] for row in whole)[-60]
    expected = [row["id"] for row in whole if row["score"] >= least]
    assert len(expected) == 60
    pages = [
        i
        for n in (0, 20, 40)
        for i in table.search("number", k=20, offset=n, min_score=least, **fields)["id"].to_pylist()
    ]
    assert pages == expected


def test_under_a_filter_the_words_are_looked_up_once(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these captions are equal to the words, and each question costs what all of them together cost."""
    fields = {"hybrid": True, "text_weight": 1.0, "where": "views >= 300", "k": 5, "columns": ("id",)}
    asked = []
    scanner = table.snapshot.dataset.scanner

    def counted(**options: Any) -> Any:
        asked.append("full_text_query" in options)
        return scanner(**options)

    monkeypatch.setattr(table.snapshot.dataset, "scanner", counted)
    table.search("number", **fields)
    assert sum(asked) == 1
    assert os.environ["LANCE_FLAT_SEARCH_PERCENT_THRESHOLD"] == "1", "else each row that passes is looked at for them"


def test_the_filter_comes_before_the_limit_of_the_words(table: Table) -> None:
    """Of a thousand captions with the word, those that pass may be none of the first hundred."""
    found = table.search(
        "number", hybrid=True, text_weight=1.0, where="views >= 940", k=60, columns=("views", "caption")
    )
    rows = found.to_pylist()
    with_word = [row for row in rows if row["bm25"] is not None]
    assert len(rows) >= 58
    assert len(with_word) >= 55
    assert all(row["views"] >= 940 for row in rows)
    assert all("number" in row["caption"] for row in with_word)


def test_shares_add_up_only_where_both_ranks_are_known() -> None:
    near, deep = list(range(WINDOW)), list(range(1000, 1000 + WINDOW))
    fused = fuse([*near, 7000], [0, *deep, 1], 0.5)
    assert fused[0] == 0.5 / (RRF_K + 1) + 0.5 / (RRF_K + 1)
    assert fused[1] == 0.5 / (RRF_K + 2), "it is deep in the captions' ranking, which another page would not know"
    assert fused[7000] == 0.5 / (RRF_K + WINDOW + 1)


FILTERS = ("(views >= 300)", "(views < 250)", "(views < 800 AND shard < 4)", "(views < 100)", "(license = 'cc0')")


@pytest.mark.parametrize("whole", [True, False])
def test_a_server_chooses_those_that_pass_from_what_is_found_without_the_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """As Lance finds them under it: captions of equal score, without a vector, fewer than are wanted. It is asked once
    for the words, however often the filter changes; not so where rows wait for the index, whose words weigh otherwise
    under each filter."""
    uri = make_table(tmp_path, TableOptions(rows=900))
    build_index(uri)
    lance.dataset(f"{uri}.lance").delete("views >= 500 AND views < 530")
    if not whole:
        append(uri, TableOptions(rows=60, start=900))
    script, server = (open_table(uri, engine=WordEngine()) for _ in range(2))
    assert server.warm(rows=True)
    words = ("red shoe", "number", "unheard of", "blue 17 green") if whole else ("red shoe",)
    cases = [(text, depth, where) for text in words for depth in (1, 20, 100) for where in FILTERS]
    expected = [full_text(script.snapshot, *case) for case in cases]
    asked: list[str | bytes | None] = []
    scanner = lance.LanceDataset.scanner

    def counted(self: lance.LanceDataset, **options: Any) -> Any:
        if "full_text_query" in options:
            asked.append(options.get("row_addr_blocklist") or options["filter"])
        return scanner(self, **options)

    monkeypatch.setattr(lance.LanceDataset, "scanner", counted)
    for case, answer in zip(cases, expected, strict=True):
        assert full_text(server.snapshot, *case, "vector").equals(answer), case
    assert (None in asked) == whole
    assert (len(asked) < len(cases)) == whole
    asked.clear()
    for where in ("views >= 300", "views >= 301", "shard < 4"):
        assert len(server.search("red boat", hybrid=True, where=where, k=5, columns="id")) == 5
    assert asked == ([None] if whole else ["(views >= 300)", "(views >= 301)", "(shard < 4)"])


@pytest.mark.parametrize("left", ["no rows", "no vectors"])
def test_a_server_finds_what_there_is_where_no_vector_is_at_hand(tmp_path: Path, left: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=40))
    rows = lance.dataset(f"{uri}.lance")
    rows.create_scalar_index("caption", "INVERTED", with_position=False)
    if left == "no rows":
        rows.delete("true")
    else:
        rows.update({"vector": "null"})
        rows.optimize.optimize_indices()
    server = open_table(uri, engine=WordEngine())
    assert server.warm(rows=True)
    for asked in ({"where": "width > 0"}, {"no_tags": ["unheard of"]}):
        assert len(server.search("red shoe", hybrid=True, **asked)) == 0


def test_the_words_of_another_page_are_not_looked_up_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"hybrid": True, "where": "views >= 5", "k": 5, "columns": ("id",)}
    table.search("green boat", **fields)
    monkeypatch.setattr("lance.query.MatchQuery", lambda *_: pytest.fail("asked Lance for the words again"))
    assert len(table.search("green boat", offset=5, **fields)) == 5


def test_the_words_have_the_deadline_of_the_query(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large table they name the rows that pass a filter themselves, which may take longer than there is."""
    under = []
    monkeypatch.setattr(hybrid, "full_text", lambda *asked: under.append(deadline.is_set()) or full_text(*asked))
    with deadline.deadline(60):
        table.search("red shoe", hybrid=True, where="views > 1")
    table.search("red shoe", hybrid=True, where="views > 1")
    assert under == [True, False]
