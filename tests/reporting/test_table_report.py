"""`clipmill report TABLE`: the figures are those of the table, and the page stands alone."""

import json
import re
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.reporting import charts, samples
from clipmill.jobs.reporting.changes import Commit, read_changes
from clipmill.jobs.reporting.contents import _plane, drift, vector_map
from clipmill.jobs.reporting.page import render
from clipmill.jobs.reporting.runs import _dollars, read_runs
from clipmill.jobs.reporting.table import TableReport, table_report, versions
from clipmill.jobs.table import ledger
from clipmill.jobs.table.readers import FENCE_TAG
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerState
from tests.reporting.conftest import EVIL, JOB, SUMMARY
from tests.tables import TableOptions, append, ledger_entry, make_table


@pytest.fixture(scope="module")
def found(reported_uri: str) -> TableReport:
    return table_report(reported_uri, Storage())


@pytest.fixture(scope="module")
def html(found: TableReport) -> str:
    return render("table.html.j2", r=found)


def test_the_page_asks_nothing_of_anybody_and_strangers_text_is_only_text(html: str) -> None:
    assert not re.search(r"<(script|link|iframe|object|base|form)\b", html)
    assert not re.search(r"""\b(src|href|srcset|action|background|on\w+)\s*=\s*["'](?!data:image/webp;base64,)""", html)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "&lt;script&gt;alert(" in html  # the detail of a reject, the note of a run, captions


def test_figures_are_those_of_the_table(found: TableReport, reported_uri: str) -> None:
    assert found.rows == 300
    assert found.rejects == {"corrupt": 3, "duplicate_id": 1}
    assert [run.run for run in found.runs] == ["one", "two"]
    assert {one.tag: one.rows for one in found.tags}["red"] == open_table(reported_uri).count("array_has(tags, 'red')")
    assert sum(found.histograms[0].counts) == 300
    assert sum(len(group.points) for group in found.map.groups) == found.map.rows
    assert found.copies.exact == 294  # six colours
    assert found.fingerprint["weights sha256"] == open_table(reported_uri).snapshot.fingerprint("vector").weights_sha256


def test_tags_of_a_version_are_those_that_readers_know(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=8))
    for tag in ("live", FENCE_TAG):
        lance.dataset(f"{uri}.lance").tags.create(tag, 1)
    assert [one["tags"] for one in versions(open_table(uri, version=1))] == [["live", "newest"]]


def test_what_a_run_cost_is_gpus_times_hours_times_price(found: TableReport, reported_uri: str) -> None:
    one, two = found.runs
    assert one.dollars == pytest.approx(4 * 0.5 * 0.5 * 2.0)  # workers, GPUs each, hours, price
    assert (two.event, two.dollars) == ("failed", None)
    assert EVIL in two.note
    assert one.loads["decode"] == 0.95
    assert "old" not in {run.run for run in read_runs(Tables.at(reported_uri))}


def test_of_workers_that_came_and_went_the_hours_of_each_are_paid() -> None:
    """Four at once for a moment of half an hour, and one of them to its end: not four times half an hour."""
    assert _dollars(JOB, {**SUMMARY, "worker_s": 2000.0}, 1800.0) == pytest.approx(2000 / 3600 * 0.5 * 2.0, abs=1e-4)
    assert _dollars(JOB, {**SUMMARY, "worker_s": 2000.0, "device": "cpu"}, 1800.0) is None


def test_rejects_are_shown_where_their_bytes_can_be_read_and_are_of_the_source(found: TableReport) -> None:
    shown = {one.id: one for one in found.shown_rejects}
    assert shown["twice"].picture
    assert shown["twice"].picture[:4] == b"RIFF"
    assert (shown["broken"].picture, shown["broken"].no_picture) == (None, "cannot be decoded (truncated)")
    assert (shown["away"].picture, shown["away"].no_picture) == (None, "not of this table's source")
    assert shown[EVIL].no_picture == "cannot be read"


def test_a_table_in_a_store_chooses_no_objects_for_the_reader_to_open(reported_uri: str) -> None:
    tables = replace(Tables.at(reported_uri), database="s3://somewhere/db")
    row = {"id": "a", "uri": "s3://private/a.png", "unit_id": "unit0", "reason": "corrupt", "detail": ""}
    (one,) = samples.Pictures(open_table(reported_uri), tables).rejects([row])
    assert (one.picture, one.no_picture) == (None, "read only with --allow-source")


def test_pictures_are_bounded_in_bytes_and_time(reported_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"row-{n:06d}" for n in range(6)]
    table, tables = open_table(reported_uri), Tables.at(reported_uri)
    monkeypatch.setattr(samples, "PAGE_BYTES", 1)
    shown = samples.Pictures(table, tables).rows(ids)
    assert [bool(one.picture) for one in shown] == [True, *[False] * 5]
    monkeypatch.setattr(samples, "PAGE_BYTES", 10**6)
    monkeypatch.setattr(samples, "READING_S", -1)
    assert {one.no_picture for one in samples.Pictures(table, tables).rows(ids)} == {"not read in time"}


def test_the_map_shows_what_lies_apart_and_is_the_same_each_time(reported_uri: str) -> None:
    rng = np.random.default_rng(0)
    flat_N3 = np.zeros((50, 3), np.float32)
    flat_N3[:25, 0], flat_N3[25:, 0] = 5, -5
    flat_N3[:, 1] = rng.random(50)
    xy_N2, explained = _plane(flat_N3)
    assert explained == pytest.approx(1.0)
    assert abs(xy_N2[:25, 0].mean() - xy_N2[25:, 0].mean()) > 0.9
    assert xy_N2.min() >= 0
    assert xy_N2.max() <= 1
    table = open_table(reported_uri)
    assert vector_map(table) == vector_map(table)
    paths = charts.map_paths(vector_map(table))
    assert all(re.fullmatch(r"(M\d+ \d+h0)+", path) for _, _, path in paths)


def test_drift_is_the_total_variation_of_the_tags(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=60))
    before = open_table(uri)
    append(uri, TableOptions(rows=60, start=60, seed=1))
    after = open_table(uri)
    assert drift(before, before).total_variation == 0
    one, other = (
        np.unique(np.concatenate(t.snapshot.dataset.to_table(columns=["tags"])["tags"].to_pylist()), return_counts=True)
        for t in (before, after)
    )
    names = sorted({*one[0], *other[0]})
    shares = [np.array([dict(zip(*c, strict=True)).get(n, 0) for n in names]) / c[1].sum() for c in (one, other)]
    assert drift(before, after).total_variation == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2, abs=1e-6)


def test_what_a_run_changed_is_read_from_the_ledger(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=8))
    tables = Tables.at(uri)
    tables.ensure_side_tables()

    def entry(unit: str, place: str, run: str, version: int, rows: int, state: str = "committed") -> object:
        made = ledger_entry(unit, place, rows=rows)
        return replace(made, run=run, table_version=version, state=LedgerState(state))

    ledger.append(tables, [entry("a", "x.tar", "first", 1, 5), entry("b", "y.tar", "first", 1, 7)])
    ledger.append(tables, [entry("c", "x.tar", "second", 3, 6), entry("a", "x.tar", "first", 3, 5, "retired")])
    ledger.append(tables, [entry("d", "z.tar", "second", 4, 2), entry("b", "y.tar", "other", 9, 7, "retired")])
    found = read_changes(tables, "second")
    assert (found.came, found.changed, found.went, found.units) == (2, 6, 5, 2)
    assert found.replaced == 5  # so nothing is gone: x.tar came again
    assert (found.before, found.after) == (2, 4)
    assert [(c.version, c.samples) for c in found.commits] == [(3, 6), (4, 2)]
    assert read_changes(tables, "it's none").units == 0


def test_the_line_of_a_night_holds_its_rate_between_commits() -> None:
    at = ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:10+00:00", "2026-01-01T00:00:30+00:00", None]
    line = charts.progress([Commit(version=n, at=when, samples=100, rows=100) for n, when in enumerate(at)])
    assert line is not None
    assert line.top == pytest.approx(10)  # 100 samples in ten seconds; then 5/s for two thirds of the width
    assert "L33.33" in line.path
    assert charts.progress([]) is None


def test_the_command_writes_the_page_and_the_same_numbers(
    reported_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli.run(["report", reported_uri, "--html", str(page), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 300
    assert figures["rejects"] == {"corrupt": 3, "duplicate_id": 1}
    assert f"{figures['copies']['exact']} exact" in page.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert cli.run(["report", reported_uri, "--html", str(tmp_path / "no" / "page.html")]) == 2
