"""Standing searches: the rows of a run that answer, all of them, and none that was there before."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.reporting.arrivals import Arrivals, arrivals
from clipmill.jobs.reporting.watch import saved_searches, watch
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import Saved
from tests.reporting.conftest import ROWS
from tests.tables import TableOptions, WordEngine, make_table


def expected(table: Table, text: str, least: float) -> list[tuple[float, str]]:
    rows = table.snapshot.dataset.to_table(columns=["id", "vector", "unit_id", "image_hash"]).to_pylist()
    wanted_D = WordEngine().encode_texts([text])[0]
    found = []
    for row in rows:
        if row["unit_id"].startswith("new") and row["id"] >= f"row-{ROWS + 10:06d}" and row["vector"] is not None:
            vector_D = np.asarray(row["vector"], np.float32)
            score = float(vector_D @ wanted_D / np.linalg.norm(vector_D))
            if score >= least:
                found.append((score, row["id"]))
    return sorted(found, reverse=True)


def test_every_row_that_came_and_answers_is_counted_and_the_best_are_listed(nights: tuple[str, int]) -> None:
    uri, _ = nights
    table, tables = open_table(uri, engine=WordEngine()), Tables.at(uri)
    came = arrivals(tables, version=table.version)
    assert (came.runs, sorted(came.units)) == (("two",), ["new0", "new1"])
    (one,) = watch(table, tables, {"red": Saved(text="red", min_score=0.35, k=3)}, came, own=True)
    should = expected(table, "red", 0.35)
    assert len(should) > 5
    assert one.matched == len(should)
    assert [hit.id for hit in one.hits] == [row_id for _, row_id in should[:3]]
    assert one.hits[0].score == pytest.approx(should[0][0], abs=1e-3)
    assert one.hits[0].tags[0] == "red"


def test_a_search_that_no_row_answers_lists_none(nights: tuple[str, int]) -> None:
    uri, _ = nights
    table, tables = open_table(uri, engine=WordEngine()), Tables.at(uri)
    came = arrivals(tables, version=table.version)
    (one,) = watch(table, tables, {"red": Saved(text="red", min_score=1.0)}, came, own=True)
    assert (one.matched, one.hits) == (0, ())
    assert table.get([], columns=["id", "caption"]).num_rows == 0


def test_bytes_that_were_there_before_are_none_that_came(nights: tuple[str, int]) -> None:
    uri, _ = nights
    table, tables = open_table(uri, engine=WordEngine()), Tables.at(uri)
    came = arrivals(tables, version=table.version)
    search = {"all": Saved(text="red", k=1000)}
    nulls = table.count("unit_id IN ('new0', 'new1') AND vector IS NULL")
    assert watch(table, tables, search, came, own=True)[0].matched == ROWS - 10 - nulls
    assert watch(table, tables, search, replace(came, before=0), own=True)[0].matched == ROWS - nulls


def test_filters_and_a_row_as_the_example(nights: tuple[str, int]) -> None:
    uri, _ = nights
    table, tables = open_table(uri, engine=WordEngine()), Tables.at(uri)
    came = arrivals(tables, version=table.version)
    like = table.get([f"row-{ROWS + 20:06d}"], ("id",))["id"].to_pylist()[0]
    found = watch(table, tables, {"a": Saved(like=like, where="license = 'cc0'", k=5)}, came, own=True)[0]
    assert like not in [hit.id for hit in found.hits]
    assert {table.get([hit.id], ("license",))["license"][0].as_py() for hit in found.hits} == {"cc0"}


def test_one_search_that_cannot_be_asked_keeps_no_other_from_it(nights: tuple[str, int]) -> None:
    uri, _ = nights
    table, tables = open_table(uri, engine=WordEngine()), Tables.at(uri)
    saved = {"gone": Saved(like="no such row"), "bad": Saved(text="red", where="colour = 1"), "red": Saved(text="red")}
    saved["half"] = Saved(text="red", where="width >")
    gone, bad, red, half = watch(table, tables, saved, arrivals(tables, version=table.version), own=True)
    assert "no such row" in gone.error
    assert "colour" in bad.error
    assert half.error == "the filter cannot be used: Expected: an expression, found: EOF"  # nothing of our own filter
    assert (red.error, bool(red.hits)) == ("", True)


def test_a_table_in_a_store_opens_no_file_of_this_machine(nights: tuple[str, int], tmp_path: Path) -> None:
    uri, _ = nights
    tables = Tables.at(uri)
    search = {"a": Saved(image=str(tmp_path / "private.png")), "b": Saved(image="http://127.0.0.1:9/x.png")}
    found = watch(
        open_table(uri, engine=WordEngine()), tables, search, Arrivals(runs=(), units=(), before=0), own=False
    )
    assert ["outside the stores" in one.error for one in found] == [True, True]


def test_since_a_run_a_date_and_what_readers_see(nights: tuple[str, int]) -> None:
    uri, first = nights
    tables = Tables.at(uri)
    newest = int(tables.open().version)
    assert arrivals(tables, version=newest, since="one").runs == ("one", "two")
    assert arrivals(tables, version=newest, since="two").runs == ("two",)
    assert arrivals(tables, version=newest, since="2020-01-01").runs == ("one", "two")
    assert arrivals(tables, version=newest, since="2999-01-01").runs == ()
    assert arrivals(tables, version=first).runs == ("one",)  # the second night is not published
    with pytest.raises(UserError, match="neither a run"):
        arrivals(tables, version=newest, since="yesterday")


def test_the_command_prints_the_searches_of_the_last_job(
    nights: tuple[str, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = nights
    monkeypatch.setattr("clipmill.jobs.querying.table.engine_for", lambda *_: WordEngine())
    assert cli.run(["watch", uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["two"]
    assert [one["name"] for one in found["searches"]] == ["red", "shoes"]
    assert found["searches"][0]["matched"] == len(expected(open_table(uri, engine=WordEngine()), "red", 0.35))
    assert cli.run(["watch", uri, "red"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + 3
    assert "3 of them shown" in said.err
    assert cli.run(["watch", uri, "rad"]) == 2
    assert "red" in capsys.readouterr().err


def test_without_saved_searches_it_says_where_they_are_written(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=8))
    Tables.at(uri).ensure_side_tables()
    with pytest.raises(UserError, match="saves no search"):
        saved_searches(Tables.at(uri))
