"""Which rows have a tag, at hand in a server: as Lance says, and without asking it."""

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.querying import nearest
from clipmill.jobs.querying.at_hand import tags as held_tags
from clipmill.jobs.querying.at_hand import warm
from clipmill.jobs.querying.at_hand.marked import Marked
from clipmill.jobs.querying.at_hand.warm import passing
from clipmill.jobs.querying.open import Query, Table, open_table
from tests.tables import TableOptions, WordEngine, batch, make_table

ASKED: tuple[dict[str, Any], ...] = (
    {"any_tags": ("red", "boat")},
    {"all_tags": ("red", "shoe")},
    {"no_tags": ("red", "blue", "green")},
    {"any_tags": ("red", "blue"), "all_tags": ("shoe",), "no_tags": ("blue", "unheard of")},
    {"any_tags": ("unheard of",)},
    {"all_tags": ("red", "unheard of")},
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows without a vector, without tags, with none, and some that were deleted."""
    uri = make_table(tmp_path_factory.mktemp("tags"), TableOptions(rows=300))
    rows = batch(TableOptions(rows=120, start=300))
    tags = [None if n % 3 == 0 else [] if n % 3 == 1 else tag for n, tag in enumerate(rows["tags"].to_pylist())]
    rows = rows.set_column(rows.schema.get_field_index("tags"), rows.schema.field("tags"), pa.array(tags))
    dataset = lance.write_dataset(rows.cast(rows.schema), f"{uri}.lance", mode="append")
    dataset.delete("views >= 40 AND views < 90")
    return uri


def served(uri: str, **options: Any) -> Table:
    table = open_table(uri, engine=WordEngine())
    table.warm(**options)
    return table


@pytest.mark.parametrize("asked", ASKED)
def test_tags_at_hand_say_what_lance_says(uri: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    script, server = open_table(uri, engine=WordEngine()), served(uri)
    assert server.snapshot.has_null_tags
    query = Query(**asked)
    predicate = script.predicate(query)
    assert predicate is not None
    expected = passing(script.snapshot, predicate)
    found = script.search("red shoe", k=20, exact=True, columns=("id",), **asked)
    monkeypatch.setattr(lance.LanceDataset, "scanner", lambda *_, **__: pytest.fail("asked Lance"))
    monkeypatch.setattr(lance.LanceDataset, "count_rows", lambda *_, **__: pytest.fail("asked Lance"))
    assert server.count(query) == len(expected)
    np.testing.assert_array_equal(passing(server.snapshot, predicate), expected)
    every = np.arange(500, dtype=np.uint64)[::-1]
    passes = warm.those_that_pass(server.snapshot, "vector", predicate, every)
    np.testing.assert_array_equal(passes, np.isin(every, expected))
    monkeypatch.setattr(nearest, "EXACT_ROWS", 0)
    assert server.search("red shoe", k=20, columns=("id",), **asked)["id"].to_pylist() == found["id"].to_pylist()


def test_beside_sql_lance_is_asked(uri: str) -> None:
    asked: dict[str, Any] = {"where": "views < 200", "any_tags": ("red",)}
    server = served(uri)
    assert server.count(Query(**asked)) == open_table(uri).count(Query(**asked))
    assert server.snapshot.marked(server.predicate(Query(**asked)) or "") is None


def test_tags_have_their_room_or_lance_is_asked(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = served(uri).snapshot.warm["vector"].nbytes
    assert served(uri, memory_bytes=vectors + 1_000).snapshot.tags is None
    with monkeypatch.context() as little:
        little.setattr(warm, "no_room", lambda *_: "")
        little.setattr(warm, "available_bytes", lambda: 250_001_000)
        assert served(uri).snapshot.tags is None, "nor does memory that is not free count as room"
    monkeypatch.setattr(held_tags, "MAX_LABELS", 15)
    assert served(uri).snapshot.tags is None, "sixteen labels"
    monkeypatch.undo()
    ids = np.arange(2, dtype=np.uint64)
    for name, tags in (
        ("null", pa.array([["a", None], ["b"]])),
        ("numbers", pa.array([[1], [2]])),
        ("text", pa.array(["a", "b"])),
    ):
        dataset = lance.write_dataset(pa.table({"tags": tags}), tmp_path / name)
        assert held_tags.load(dataset, ids, 1_000_000) is None, name
    empty = lance.write_dataset(pa.table({"tags": pa.array([[], None], pa.list_(pa.string()))}), tmp_path / "empty")
    held = held_tags.load(empty, ids, 1_000_000)
    assert held is not None
    assert held.marks(("a",), (), ()).tolist() == [False, False]
    assert held.marks((), (), ("a",)).tolist() == [True, True]


def test_which_rows_pass_is_remembered_of_a_large_table_too(uri: str) -> None:
    snapshot = open_table(uri).snapshot
    most = Marked(np.ones(8_000_000, np.bool_), 8_000_000, np.empty(0, np.intp))
    for rows, kept in ((300, False), (8_000_000, True)):
        remembered = snapshot._marks(rows)
        remembered.put(("vector", "views >= 0"), most)
        assert (remembered.get(("vector", "views >= 0")) is most) == kept
