"""A filter told to Lance by the rows that do not pass: what is found is what the filter finds."""

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.dataset import serialize_row_addrs

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import mask, nearest, words
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.querying.roads import widest
from tests.tables import TableOptions, WordEngine, append, batch, make_table

FILTERS = ("views < 40", "(license = 'cc0' AND views < 500)", "array_has_any(tags, ['shoe'])", "NOT (views < 30)")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.95, 1])
@pytest.mark.parametrize("end", [1, 65_536, 150_000])
def test_the_set_is_as_lance_writes_it(end: int, share: float) -> None:
    """Lists of up to 4096 in a part of 65,536 ids, else bits; parts without any, a part that is not full."""
    passing = np.flatnonzero(np.random.default_rng(end).random(end) < share).astype(np.uint64)
    others = np.setdiff1d(np.arange(-(-end // 65_536) * 65_536, dtype=np.uint64), passing)
    assert mask.all_but(passing, end) == serialize_row_addrs(others.tolist())


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With an index in two parts; rows that were deleted, written again with other vectors, and not indexed yet."""
    uri = make_table(tmp_path_factory.mktemp("mask"), TableOptions(rows=2400, noise=2.0))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    rows = lance.dataset(f"{uri}.lance")
    rows.delete("views >= 500 AND views < 540")
    again = batch(TableOptions(rows=2400, noise=2.0, seed=9)).slice(100, 150)
    rows.merge_insert("id").when_matched_update_all().execute(again)
    append(uri, TableOptions(rows=200, start=2400, noise=2.0))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    lance.dataset(f"{uri}.lance").delete("views < 5")
    append(uri, TableOptions(rows=50, start=2600, noise=2.0))
    return uri


def found_by(table: Table, where: str, text: str) -> tuple[Any, Any]:
    """Through all of the index, and captions."""
    snapshot, vector_D = table.snapshot, WordEngine().encode_texts([text])[0]
    index = snapshot.vector_index("vector")
    assert index is not None
    near = nearest._by_lance(snapshot, "vector", vector_D, 30, where, widest(index))
    return near, words.full_text(snapshot, text, 30, where)


@pytest.mark.parametrize("where", FILTERS)
def test_what_is_found_is_what_the_filter_finds(uri: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("red shoe", "blue boat", "number")
    told, given = open_table(uri), open_table(uri)
    monkeypatch.setattr(nearest, "FEW_PASS", 1)
    asked: list[dict[str, Any]] = []
    scanner = lance.LanceDataset.scanner

    def noted(self: lance.LanceDataset, **options: Any) -> Any:
        asked.append(options)
        return scanner(self, **options)

    with monkeypatch.context() as noting:
        noting.setattr(lance.LanceDataset, "scanner", noted)
        answers = [found_by(told, where, text) for text in texts]
    assert all("row_addr_blocklist" in options and "filter" not in options for options in asked if "nearest" in options)
    monkeypatch.setattr(mask, "MOST_NAMED", 0)
    for text, answer in zip(texts, answers, strict=True):
        near, captions = found_by(given, where, text)
        assert answer[0].equals(near)
        assert answer[1].equals(captions)


def test_captions_are_looked_up_among_those_that_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of them are in the index: those that wait weigh otherwise under each filter."""
    uri = make_table(tmp_path, TableOptions(rows=400))
    build_index(uri)
    with monkeypatch.context() as unnamed:
        unnamed.setattr(mask, "MOST_NAMED", 0)
        expected = {where: words.full_text(open_table(uri).snapshot, "red shoe", 10, where) for where in FILTERS}
    asked: list[bool] = []
    only_passing = mask.only_passing
    monkeypatch.setattr(words, "only_passing", lambda *of: asked.append(True) or only_passing(*of))
    for where, answer in expected.items():
        assert words.full_text(open_table(uri).snapshot, "red shoe", 10, where).equals(answer)
    assert len(asked) == len(FILTERS)
    append(uri, TableOptions(rows=20, start=400))
    asked.clear()
    assert len(words.full_text(open_table(uri).snapshot, "red shoe", 10, FILTERS[0]))
    assert asked == []


def test_of_places_in_files_and_of_few_rows_among_many_ids_lance_is_given_the_filter(tmp_path: Path) -> None:
    rows = batch(TableOptions(rows=120))
    lance.write_dataset(rows, f"{tmp_path}/places.lance", max_rows_per_file=50)
    places = open_table(f"{tmp_path}/places").snapshot
    assert places.row_ids_end is None
    assert mask.only_passing(places, "views < 40") == {"filter": "views < 40"}
    lance.write_dataset(pa.concat_tables([rows] * 600), f"{tmp_path}/few.lance", enable_stable_row_ids=True)
    lance.dataset(f"{tmp_path}/few.lance").delete("_rowid < 71900")
    few = open_table(f"{tmp_path}/few").snapshot
    assert (few.num_rows, few.row_ids_end) == (100, 72_000)
    assert mask.only_passing(few, "views < 40") == {"filter": "views < 40"}


def test_a_set_that_is_too_large_to_be_kept_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the ids of so many rows looked through for the last one: of a billion that is seconds."""
    snapshot = open_table(make_table(tmp_path, TableOptions(rows=120))).snapshot
    monkeypatch.setattr(mask, "_MOST_IDS", 119)
    assert mask.only_passing(snapshot, "views < 40") == {"filter": "views < 40"}
    assert "row_ids_end" not in vars(snapshot)
    monkeypatch.setattr(mask, "_MOST_IDS", 120)
    assert "row_addr_blocklist" in mask.only_passing(snapshot, "views < 40")
