"""An empty answer says why; a hybrid search says what it is ordered by, and finds words that no blanks tell apart."""

from pathlib import Path
from typing import Any

import httpx
import lance
import pyarrow as pa
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.indexing.build import build_index
from clipmill.jobs.querying.nothing import caveat, why_nothing
from clipmill.jobs.querying.open import Examples, Query, Table, open_table
from clipmill.jobs.querying.words import full_text
from tests.served import running
from tests.tables import TableOptions, WordEngine, make_table

SHOE = Examples(texts=("red shoe",))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, engine: WordEngine) -> Table:
    return open_table(make_table(tmp_path_factory.mktemp("rows"), TableOptions(rows=240)), engine=engine)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Query(all_tags=("shoo",)), "no row has the tag 'shoo'; did you mean 'shoe'?"),
        (Query(all_tags=("Shoe",)), "did you mean 'shoe'?"),
        (Query(positive=SHOE, any_tags=("elephant",)), "no row has the tag 'elephant'; the table's tags are "),
        (Query(all_tags=("red", "blue")), "no row passes the tags together"),
        (Query(where="width > 9000"), "no row passes the SQL filter"),
        (Query(where="width > 9000", all_tags=("red",)), "no row passes the SQL filter"),
        (
            Query(where="array_has(tags, 'red')", all_tags=("blue",)),
            "no row passes the SQL filter and the tags together",
        ),
        (Query(positive=SHOE, min_score=0.999), "and only hits of at least 0.999 were asked for"),
        (Query(positive=SHOE, where="id = 'row-000003'"), "have no vector"),
        (Query(where="id = 'row-000001'", offset=5), "nothing that far down: 1 row passes, and 5 were skipped"),
    ],
)
def test_an_empty_answer_says_why(table: Table, query: Query, said: str) -> None:
    assert len(table.run(query)) == 0
    assert said in why_nothing(table, query)


def test_the_best_score_is_told(table: Table) -> None:
    best = table.search("red shoe", k=1)["score"][0].as_py()
    assert f"the best score is {best:.2f}" in why_nothing(table, Query(positive=SHOE, min_score=0.999))


def test_tables_without_tags_or_rows_say_so(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    lance.dataset(f"{uri}.lance").update({"tags": "NULL"})
    assert why_nothing(open_table(uri), Query(all_tags=("cat",))).startswith("this table has no tags")
    lance.dataset(f"{uri}.lance").delete("true")
    assert why_nothing(open_table(uri), Query(all_tags=("cat",))) == "the table has no rows"


def test_the_command_and_the_server_say_it(
    table: Table, engine: WordEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", table.uri, "--tag", "shoo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("[]\n", "nothing found: no row has the tag 'shoo'; did you mean 'shoe'?\n")
    with running(table) as base, httpx.Client(base_url=base) as client:
        answer = client.post("/api/search", json={"all_tags": ["shoo"]}).json()
        assert (answer["hits"], answer["note"]) == ([], "no row has the tag 'shoo'; did you mean 'shoe'?")
        assert client.post("/api/search", json={"all_tags": ["shoe"]}).json()["note"] is None


CAPTIONS = [
    "一只红色的鞋子在桌子上",
    "赤い靴がテーブルの上にあります",
    "北京大学的学生",
    "a red shoe runs",
    "two shoes, green",
]


def with_captions(folder: Path) -> str:
    """A table whose first rows have CAPTIONS."""
    uri = make_table(folder, TableOptions(rows=60))
    dataset = lance.dataset(f"{uri}.lance")
    ids = [f"row-{n:06d}" for n in range(len(CAPTIONS))]
    dataset.merge_insert("id").when_matched_update_all().execute(pa.table({"id": ids, "caption": CAPTIONS}))
    return uri


def found(table: Table, words: str) -> set[Any]:
    rows = full_text(table.snapshot, words, 100, None)
    names = table.snapshot.dataset._take_rows(rows["_rowid"].to_pylist(), columns=["id"])["id"].to_pylist()
    return {int(name[4:]) for name in names if int(name[4:]) < len(CAPTIONS)}


def test_words_inside_chinese_and_japanese_captions_are_found(tmp_path: Path, engine: WordEngine) -> None:
    """English hits are those of the old index, which splits at blanks; that one is built again, once."""
    uri = with_captions(tmp_path)
    old = lance.dataset(f"{uri}.lance")
    old.create_scalar_index("caption", "INVERTED", name="caption_idx", with_position=False)
    before = open_table(uri, engine=engine)
    english = ("shoe", "shoes", "red", "green", "run", "dog", "number")
    was = {word: found(before, word) for word in english}
    assert was["shoe"] == {3, 4}
    assert found(before, "鞋子") == set()
    asked = Query(positive=Examples(texts=("鞋子",)), hybrid=True)
    assert "run `clipmill index TABLE`" in caveat(before, asked)
    assert build_index(uri).scalar["caption"] == "built"
    after = open_table(uri, engine=engine)
    assert {word: found(after, word) for word in ("鞋子", "靴", "学生")} == {"鞋子": {0}, "靴": {1}, "学生": {2}}
    assert {word: found(after, word) for word in english} == was
    assert caveat(after, asked) == ""
    assert build_index(uri).scalar["caption"] == "current"


def test_a_hybrid_answer_shows_the_score_that_it_is_ordered_by(
    tmp_path: Path, engine: WordEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmill.jobs.querying import table as opened

    # The model of this table has no file to be loaded from.
    monkeypatch.setattr(opened, "engine_for", lambda *_: engine)
    uri = with_captions(tmp_path)
    build_index(uri)
    assert run(["search", uri, "red shoe", "--hybrid", "-k", "5"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["rank_score", "score"]
    shown = [float(line.split()[0]) for line in lines]
    assert shown == sorted(shown, reverse=True)
    assert run(["search", uri, "red shoe", "-k", "5"]) == 0
    assert capsys.readouterr().out.split()[0] == "score"


def test_words_that_the_model_does_not_know_are_told(tmp_path: Path) -> None:
    class Learned(WordEngine):
        def unknown_words(self, texts: Any) -> list[str]:
            return [word for text in texts for word in text.split() if word == "zebra"]

    opened = open_table(make_table(tmp_path, TableOptions(rows=20)), engine=Learned())
    asked = Query(positive=Examples(texts=("red zebra",)))
    assert caveat(opened, asked).startswith("the model was never trained on 'zebra'")
    assert caveat(opened, Query(positive=SHOE)) == ""
    assert caveat(opened, Query(positive=SHOE, negative=Examples(texts=("zebra",)))) != ""
    assert caveat(opened, Query(where="width > 1")) == ""
