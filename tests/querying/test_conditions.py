"""Filters of whole numbers, told from the rows a server has at hand: as Lance says, and without asking it."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.querying.at_hand.conditions import conditions
from clipmill.jobs.querying.at_hand.warm import passing
from clipmill.jobs.querying.open import Query, open_table
from tests.tables import TableOptions, WordEngine, batch, make_table

TOLD = (
    "views < 120",
    "views >= 30 AND views <= 250 and shard = 3",
    "views > 100 AND height = 48",
    "image_offset < 40",  # null in most rows
    "width > 2147483647",
    "shard = 99",
)
LANCES = (
    "views < 120 OR shard = 3",
    "NOT views < 120",
    "views != 7",
    "views = 7.5",
    "views < -1",
    "width < 3000000000",  # more than the column holds
    "caption_score < 1",
    "license = 'a AND views > 3'",
    "(views < 120) AND (shard = 3)",
    "7 < views",
    "views < 120 AND array_has_any(tags, make_array('red'))",
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows without a vector, with nulls, some that were deleted, and some that were written again."""
    uri = make_table(tmp_path_factory.mktemp("numbers"), TableOptions(rows=300))
    rows = batch(TableOptions(rows=90, start=300))
    place = rows.schema.get_field_index("image_offset")
    rows = rows.set_column(place, rows.schema.field(place), pa.array(range(90), rows.schema.field(place).type))
    dataset = lance.write_dataset(rows, f"{uri}.lance", mode="append")
    dataset.delete("views >= 40 AND views < 90")
    dataset.update({"shard": "3"}, where="views < 20")
    return uri


@pytest.mark.parametrize("where", TOLD)
def test_rows_at_hand_say_what_lance_says(
    uri: str, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("clipmill.jobs.querying.at_hand.rows._BATCH", 64)
    script, server = (open_table(uri, engine=WordEngine()) for _ in range(2))
    assert server.warm(rows=True)
    query = Query(where=where)
    predicate = script.predicate(query)
    assert predicate is not None
    expected = passing(script.snapshot, predicate)
    some = passing(script.snapshot, "views IS NOT NULL")[::-3]
    found = script.search("red shoe", k=20, exact=True, columns=("id",), where=where)
    monkeypatch.setattr(lance.LanceDataset, "scanner", lambda *_, **__: pytest.fail("asked Lance"))
    monkeypatch.setattr(lance.LanceDataset, "count_rows", lambda *_, **__: pytest.fail("asked Lance"))
    assert server.count(query) == len(expected)
    np.testing.assert_array_equal(passing(server.snapshot, predicate), expected)
    np.testing.assert_array_equal(server.snapshot.told(predicate, some), np.isin(some, expected))
    assert server.snapshot.told(predicate, np.append(some, some.max() + 1_000_000)) is None, "a row that is not there"
    assert server.search("red shoe", k=20, columns=("id",), where=where)["id"].to_pylist() == found["id"].to_pylist()


@pytest.mark.parametrize("where", LANCES)
def test_all_else_is_lances_to_understand_or_to_refuse(uri: str, where: str) -> None:
    table = open_table(uri)
    assert conditions(table.predicate(Query(where=where)) or "", table.schema) is None
