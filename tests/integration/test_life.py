"""A table's life around a run: what readers see, what two first runs may not mix, and what an error leaves."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.planning import listing
from clipmill.jobs.planning.dry_run import dry_run
from clipmill.jobs.terminal.progress import Progress, Snapshot
from clipmill.jobs.verifying.status import status
from clipmill.schemas.errors import EXIT_UNITS_FAILED, EXIT_USER, UserError
from clipmill.schemas.job.config import JobFile
from tests.integration.conftest import last_json, write_job
from tests.integration.help import job, problems, rows, run, tables, versions, write_tar

pytestmark = pytest.mark.ray


def bucket(folder: Path, count: int = 2, **more: Any) -> JobFile:
    for number in range(count):
        write_tar(folder / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    return job(folder, {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}, **more)


def live(made: JobFile) -> int:
    return int(tables(made).open().tags.list()["live"]["version"])


def test_readers_see_what_was_published_and_everybody_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bucket(here)
    first = run(made, publish=True)
    assert (first.live, first.live_rows) == (first.table_version, 6)
    assert first.note.startswith("published: readers see the published version")

    write_tar(here / "raw" / "3.tar", range(9, 12))
    plain = run(made)
    assert (plain.live, plain.live_rows, live(made)) == (first.live, 6, first.live)
    assert f"published version {first.live} with 6 rows, not the newest {plain.table_version} with 9" in plain.note
    assert "`clipmill embed job.yaml --publish`" in plain.note
    found = status(made.table, made.storage)
    assert (found.live, found.live_rows, found.rows) == (first.live, 6, 9)
    assert f"`clipmill publish {made.table}` publishes the newest" in found.readers

    survey = listing.survey
    file = write_job(here / "job.yaml", made)

    def change_after(*args: Any, **options: Any) -> Any:
        write_tar(here / "raw" / "4.tar", range(20, 22))
        units = list(survey(*args, **options))
        write_tar(here / "raw" / "4.tar", range(12, 15))
        return units

    with monkeypatch.context() as patch:
        patch.setattr(listing, "survey", change_after)
        assert cli.run(["embed", str(file), "--publish", "--json"]) == EXIT_UNITS_FAILED
    assert "not published, because units are missing" in last_json(capsys.readouterr().out)["note"]
    assert live(made) == first.live

    run(made)
    idle = run(made, publish=True)  # nothing to embed
    assert (idle.run, idle.seen) == ("", 0)
    assert "nothing to do" in idle.note
    assert "published: readers see" in idle.note
    assert (idle.live, idle.live_rows, live(made)) == (idle.table_version, 12, int(tables(made).open().version))
    before = versions(made)
    assert "published" not in run(made, publish=True).note
    assert versions(made) == before


def test_ctrl_c_publishes_nothing(here: Path) -> None:
    made = bucket(here, workers={"num": 1, "units_in_flight": 1}, commit={"every_rows": 1})
    first = run(made, publish=True)
    for number in range(3, 25):
        write_tar(here / "raw" / f"{number:02d}.tar", range(number * 3, number * 3 + 3))
    sent: list[str] = []

    def interrupt(step: str) -> None:
        """Before the first commit, which lands all the same: by its end a busy machine may have done every unit."""
        if step == "before_rejects" and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = run(made, publish=True, hook=interrupt)
    assert stopped.interrupted
    assert stopped.rows > 0
    assert "not published" in stopped.note
    assert live(made) == first.live


def test_progress_goes_on_while_a_commit_is_under_way(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes what is ready before it counts it."""
    made = bucket(here, 3, workers={"num": 1, "units_in_flight": 1}, commit={"every_rows": 6})
    shown: list[Snapshot] = []
    monkeypatch.setattr(Progress, "show", lambda self, now: shown.append(now))
    run(made, hook=lambda step: time.sleep(0.6) if step == "before_rows" else None)  # longer than a tick
    for figures in ([now.units_done for now in shown], [now.samples for now in shown], [now.rows for now in shown]):
        assert figures == sorted(figures)
    assert (shown[-1].units_done, shown[-1].samples) == (3, 9)


def vocabulary(path: Path, *labels: str) -> dict[str, Any]:
    path.write_text(json.dumps({"labels": labels}))
    return {"tags": {"vocabulary": str(path)}}


@pytest.mark.parametrize(
    "differs",
    ["vocabulary", pytest.param("columns", marks=pytest.mark.slow), pytest.param("model", marks=pytest.mark.slow)],
)
def test_two_first_runs_with_other_settings_do_not_mix(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], differs: str
) -> None:
    """The second one looks before there is a table, and takes the lease after the first one has made it and ended."""
    mine = vocabulary(here / "mine.yaml", "cat", "dog")
    other = {
        "vocabulary": vocabulary(here / "other.yaml", "cat", "dog", "house"),
        "columns": {**mine, "thumbnails": True},
        "model": {**mine, "model": {"name": "stub:8"}},
    }[differs]
    first, second = bucket(here, **mine), bucket(here, **other)
    survey, ran = listing.survey, []

    def late(*args: Any, **options: Any) -> Any:
        if not ran:
            ran.append("first")
            run(first)
        return survey(*args, **options)

    monkeypatch.setattr(listing, "survey", late)
    assert cli.run(["embed", str(write_job(here / "job.yaml", second))]) == EXIT_USER
    assert len(rows(first, "id")) == 6
    assert problems(first) == []
    said = {"vocabulary": "vocabulary 'other'", "columns": "thumbnails", "model": "stub:8"}[differs]
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match=said):  # and plan says it too
        dry_run(second)
    assert (dry_run(first).new, dry_run(first).done) == (0, 2)


@pytest.mark.slow  # tests/committing/test_table_life.py has the same without Ray
def test_a_table_that_was_removed_is_made_again_in_full(here: Path) -> None:
    made = bucket(here, 3)
    run(made)
    shutil.rmtree(tables(made).rows.removeprefix("file://"))
    assert dry_run(made).new == 3
    part = made.model_copy(update={"source": made.source.model_copy(update={"uri": (f"{here}/raw/1.tar",)})})
    assert run(part).rows == 3
    assert dry_run(made).new == 2
    assert (run(made).rows, len(rows(made, "id"))) == (6, 9)
    assert problems(made) == []


def test_an_error_in_the_middle_says_what_stays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bucket(here, 4, workers={"num": 1, "units_in_flight": 1}, commit={"every_rows": 1})
    commits: list[str] = []

    def fail_later(step: str) -> None:
        if step == "before_rejects":
            commits.append(step)
            if len(commits) == 2:
                raise UserError("the store went away", "bring it back")

    with pytest.raises(UserError, match="went away"):
        run(made, hook=fail_later)
    assert "rows of" in (said := capsys.readouterr().err)
    assert "were committed before this and stay" in said
    assert run(made).already_done >= 1
    assert len(rows(made, "id")) == 12
