"""The report of a night: its figures are those of the ledger, the rejects and the record of the night."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.reporting import charts
from clipmill.jobs.reporting.night import NightOptions, NightReport, find_night, night_report
from clipmill.jobs.reporting.page import render
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import Saved
from tests.reporting.conftest import EVIL, ROWS


@pytest.fixture(scope="module")
def found(nights: tuple[str, int]) -> NightReport:
    tables = Tables.at(nights[0])
    saved = {EVIL[:20]: Saved(like=f"row-{ROWS + 30:06d}", k=6), "gone": Saved(like="no such row")}
    return night_report(tables, find_night(tables, "last"), NightOptions(watch=saved))


def test_what_came_and_what_was_rejected_are_of_this_night(found: NightReport, nights: tuple[str, int]) -> None:
    assert found.night.run == "two"
    assert (found.changes.came, found.changes.changed, found.changes.went) == (120, 0, 0)
    assert found.rejects == {"corrupt": 1, "duplicate_id": 1}
    assert {one.id: bool(one.picture) for one in found.shown_rejects} == {"broken": False, "twice": True}
    assert found.run is not None
    assert found.run.loads["decode"] == 0.95


def test_the_sample_is_of_pictures_that_were_not_there_before(found: NightReport) -> None:
    assert len(found.sample) == 18
    assert all(one.picture for one in found.sample)
    assert all(one.id >= f"row-{ROWS + 10:06d}" for one in found.sample)  # the first ten have bytes that were there
    assert len({one.id for one in found.sample}) == 18


def test_gates_have_their_history_and_the_threshold_is_in_sight(found: NightReport) -> None:
    coverage, drift, recall = found.gates
    assert len(coverage.values) == 30
    assert coverage.values[28] == 0.93
    line = charts.line([v for v in coverage.values if v is not None], coverage.gate.threshold)
    assert line is not None
    assert line.limit is not None
    assert 0 < line.limit < 100
    assert line.least == 0.93
    assert drift.gate.passed
    assert set(recall.values) == {None}


def test_tag_drift_is_from_the_version_that_readers_had(found: NightReport, nights: tuple[str, int]) -> None:
    assert found.drift is not None
    assert open_table(nights[0], version=nights[1]).num_rows == ROWS
    assert 0 <= found.drift.total_variation < 0.1


def test_searches_show_their_best_and_say_what_could_not_be_asked(found: NightReport) -> None:
    asked, gone = found.watched
    assert len(asked.hits) == 6
    assert [one.id for one in found.shown_hits[asked.name]] == [hit.id for hit in asked.hits]
    assert "no such row" in gone.error


def test_the_page_stands_alone_and_says_who_sees_what(found: NightReport, nights: tuple[str, int]) -> None:
    html = render("night.html.j2", r=found)
    assert not re.search(r"<(script|link|iframe|object|base|form)\b", html)
    assert not re.search(r"""\b(src|href|srcset|action|background|on\w+)\s*=\s*["'](?!data:image/webp;base64,)""", html)
    assert "Published: readers see version" in html
    tables = Tables.at(nights[0])
    refused = render("night.html.j2", r=night_report(tables, find_night(tables, "night28")))
    assert "Not published: coverage." in refused
    assert f"Readers still see version {nights[1]}" in refused
    assert "Beside the columns in use" not in html


def test_the_page_shows_how_far_what_lies_beside_is(nights: tuple[str, int]) -> None:
    tables = Tables.at(nights[0])
    html = render("night.html.j2", r=night_report(tables, find_night(tables, "night28")))
    _, _, card = html.partition("Beside the columns in use")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", card.partition("<h2>")[0]))
    assert "set or column rows filled this night could not be not done yet" in text
    assert "vit_l_14 &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; the weights are gone" in text
    assert "240 231 96.2 % 119 7 source_changed 7 2 tags__side – – 12 – 0" in text


def test_a_night_that_did_not_end_lists_nothing_and_says_where_it_is_listed(nights: tuple[str, int]) -> None:
    tables = Tables.at(nights[0])
    saved = NightOptions(watch={"all": Saved(like=f"row-{ROWS + 30:06d}")})
    report = night_report(tables, replace(find_night(tables, "last"), status="interrupted"), saved)
    assert (report.sample, report.watched, report.shown_rejects, report.listed_runs) == ((), (), (), ())
    html = render("night.html.j2", r=report)
    assert "What came until here is listed by the next night that ends." in html
    assert "Rejects of this night" not in html
    assert "Saved searches" not in html


def test_a_night_is_found_by_its_run(nights: tuple[str, int]) -> None:
    tables = Tables.at(nights[0])
    assert find_night(tables, "night3").at.startswith("2026-10-04")
    with pytest.raises(UserError, match="there is no table"):
        find_night(Tables.at(f"{nights[0]}-that-is-not-there"), "last")
    with pytest.raises(UserError, match="knows no night"):
        find_night(tables, "never")


def test_the_command_prints_the_same_numbers_and_writes_the_page(
    nights: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tables import WordEngine

    monkeypatch.setattr("clipmill.jobs.querying.table.engine_for", lambda *_: WordEngine())
    page = tmp_path / "night.html"
    assert cli.run(["report", nights[0], "--night", "last", "--html", str(page), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["changes"]["came"] == 120
    assert [one["name"] for one in figures["watched"]] == ["red", "shoes"]
    assert "Saved searches" in page.read_text("utf-8")


def test_rows_of_a_folder_are_new_changed_gone_or_only_read_again(found: NightReport) -> None:
    """As the night counted them by their ids; nights of an older release show what units say."""
    assert (found.night.rows_again, "more read again" in render("night.html.j2", r=found)) == (0, False)
    night = replace(found.night, rows=120, rows_new=30, rows_changed=2, rows_before=220, rows_after=240)
    counted = replace(found, night=night)
    assert (night.rows_again, night.rows_gone) == (88, 10)
    page = render("night.html.j2", r=counted)
    for told in ("<dd>30</dd>", "<small>88 more read again</small>", "<dt>rows gone</dt><dd>10</dd>"):
        assert told in page
