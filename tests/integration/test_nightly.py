"""Nights over a bucket that changes: what readers see, what leaves, what is refused, and what a kill leaves behind."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.publishing import nightly as module
from clipmill.jobs.publishing.night import Night, nights
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.publishing.publish import publish, rollback
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.reporting.night import NightOptions, night_report
from clipmill.jobs.reporting.page import render
from clipmill.schemas.errors import EXIT_GATE_REFUSED, EXIT_UNITS_FAILED, EXIT_USER, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.nightly import Saved
from tests.integration.conftest import write_job
from tests.integration.help import job, problems, rows, run, tables, versions, write_tar

pytestmark = pytest.mark.ray
SAID: list[str] = []


def bucket(folder: Path, count: int = 12, **more: Any) -> JobFile:
    for number in range(count):
        write_tar(folder / "raw" / f"{number:02d}.tar", range(number * 3, number * 3 + 3))
    section = {"min_coverage": 0.5, **more.pop("nightly", {})}
    source = {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}
    return job(folder, source, nightly=section, **more)


def again(made: JobFile, **changes: Any) -> JobFile:
    return made.model_copy(update={"nightly": made.nightly.model_copy(update=changes)})


def night(made: JobFile, **options: Any) -> Night:
    return nightly(made, say=SAID.append, **options)


def ids(made: JobFile, version: int | None = None) -> set[str]:
    return {row["id"] for row in rows(made, "id", version=version)}


def test_a_week_of_nights(here: Path) -> None:
    made = bucket(here, nightly={"gone": "delete"})
    first = night(made)
    assert (first.status, first.came, first.rows_after, first.live_before) == ("published", 12, 36, None)
    assert first.live_after == first.versions["rows"]
    assert {gate.name for gate in first.gates} == {"coverage", "rejects", "vectors"}

    before = versions(made)
    idle = night(made)
    assert (idle.status, idle.came, versions(made)) == ("nothing", 0, before)

    (here / "raw" / "00.tar").unlink()  # gone
    write_tar(here / "raw" / "01.tar", range(100, 104))  # replaced
    write_tar(here / "raw" / "99.tar", range(200, 202))  # new
    second = night(made)
    assert (second.status, second.came, second.changed, second.gone, second.deleted) == ("published", 1, 1, 1, 3)
    assert second.rows_after == 36 - 3 + 1 + 2
    assert second.note == "", "no word of what readers saw before the gates"
    assert not {row for row in ids(made) if "/00.tar" in row}
    assert not problems(made)
    fresh = made.model_copy(update={"table": f"{here}/db/fresh"})
    run(fresh)
    assert ids(fresh) == ids(made)
    assert nights(tables(made)) == [first, second]

    report = night_report(tables(made), second, NightOptions(allow=made.source.uri))
    assert (report.changes.came, report.changes.changed) == (2, 4)  # of 99, of 01
    assert {shown.uri.rpartition("/")[2][:6] for shown in report.sample} == {"01.tar", "99.tar"}
    assert all(shown.picture for shown in report.sample)
    assert report.run is not None
    assert set(report.run.loads) == {"read", "decode", "embed", "tag", "write"}


def test_rows_that_follow_their_samples_to_another_place_are_neither_new_nor_gone(here: Path) -> None:
    """A tar that was renamed, of which no unit takes another's place: "3 new, 3 gone"."""
    made = bucket(here, 2, nightly={"max_gone": 1.0})
    made = made.model_copy(update={"source": made.source.model_copy(update={"id": "key"})})
    night(made)
    (here / "raw" / "00.tar").rename(here / "raw" / "02.tar")
    found = night(made)
    assert (found.status, found.moved, found.rows) == ("published", 1, 3)
    assert (found.rows_new, found.rows_changed, found.rows_gone, found.rows_again) == (0, 0, 0, 3)


@pytest.mark.slow
def test_gone_rows_stay_where_the_job_says_so_and_are_no_new_loss_every_night(here: Path) -> None:
    made = bucket(here, nightly={"max_gone": 0.1})
    night(made)
    for number in range(3):
        (here / "raw" / f"{number:02d}.tar").unlink()
        found = night(made)
        assert (found.status, found.gone, found.deleted, found.rows_after) == ("published", number + 1, 0, 36), found
        assert night(made).status == "nothing"


@pytest.mark.parametrize("gone", [pytest.param("keep", marks=pytest.mark.slow), "delete"])
def test_a_listing_that_lost_too_much_deletes_and_publishes_nothing(
    here: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bucket(here, nightly={"gone": gone})
    first = night(made)
    (here / "raw" / "00.tar").rename(here / "00.tar")
    (here / "raw" / "01.tar").rename(here / "01.tar")
    write_tar(here / "raw" / "99.tar", range(200, 202))
    before = versions(made)
    found = night(made)
    assert (found.status, [gate.name for gate in found.refused]) == ("refused", ["gone"])
    assert "6 of 36 samples are gone from the source: 16.67%, at most 10.00%" in found.refused[0].sentence
    assert {**before, "runs": 0} == {**versions(made), "runs": 0}  # no commit
    page = here / "night.html"
    asked = ["nightly", str(write_job(here / "job.yaml", made)), "--report", str(page)]
    assert cli.run(asked) == EXIT_GATE_REFUSED
    assert f"readers still see version {first.live_after}" in capsys.readouterr().err
    assert "Not published: gone." in page.read_text("utf-8")

    for tar in (here / "raw").glob("*.tar"):
        tar.unlink()
    empty = night(made)
    assert (empty.status, empty.gates[0].value, empty.live_after) == ("refused", 1.0, first.live_after)
    assert len(rows(made, "id")) == 36

    for number in range(12):  # back
        write_tar(here / "raw" / f"{number:02d}.tar", range(number * 3, number * 3 + 3))
    assert (night(made).status, len(rows(made, "id"))) == ("published", 36)

    places = (*made.source.uri, f"{here}/more/*.tar")  # of two, one shows nothing: that is not all that there is
    one_empty = night(made.model_copy(update={"source": made.source.model_copy(update={"uri": places})}))
    assert (one_empty.status, one_empty.gates[0].value) == ("refused", None)
    assert one_empty.gates[0].sentence.startswith(f"{here}/more/ does not exist: what it held would be gone")


def test_a_gate_holds_back_what_readers_would_see_and_the_next_night_goes_on(here: Path) -> None:
    made = bucket(here, 4)
    first = night(made)
    write_tar(here / "raw" / "98.tar", range(100, 101), bad=4)
    refused = night(made)
    assert (refused.status, [gate.name for gate in refused.refused]) == ("refused", ["rejects"])
    assert (refused.rows_after, refused.live_after) == (13, first.live_after)
    assert len(open_table(made.table).get(sorted(ids(made)))) == 12  # readers follow live
    assert night(made).status == "refused"  # nothing new, and still not good

    write_tar(here / "raw" / "98.tar", range(100, 105))  # mended
    good = night(made)
    assert (good.status, good.rows_after) == ("published", 17)
    assert good.live_after == good.versions["rows"]
    assert open_table(made.table).count() == 17


@pytest.mark.slow
def test_publish_by_force_and_back_again_and_nights_leave_that_alone(here: Path) -> None:
    made = bucket(here, 4)
    first = night(made)
    write_tar(here / "raw" / "98.tar", range(100, 101), bad=4)
    night(made)
    refused = publish(made.table, made.storage, force=False, say=SAID.append)
    assert ([gate.name for gate in refused.refused], refused.version) == (["rejects"], first.live_after)
    forced = publish(made.table, made.storage, force=True, say=SAID.append)
    assert (forced.overridden, forced.refused, forced.rows) == (("rejects",), (), 13)

    back = rollback(made.table, made.storage, to="previous", say=SAID.append)
    assert (back.version, back.before, back.rows) == (first.live_after, forced.version, 12)
    held = night(made)
    assert "held" in [gate.name for gate in held.refused]
    assert open_table(made.table).count() == 12
    with pytest.raises(UserError, match="no version '9999'"):
        rollback(made.table, made.storage, to="9999", say=SAID.append)
    log = tables(made).open("runs").to_table(filter="event IN ('published', 'rolled_back')").to_pylist()
    assert [row["event"] for row in log] == ["published", "published", "rolled_back"]
    assert json.loads(log[1]["detail"])["overridden"] == ["rejects"]

    publish(made.table, made.storage, force=True, say=SAID.append)
    assert night(made).status == "nothing"


@pytest.mark.slow
def test_a_golden_set_that_gets_worse_refuses_and_a_missing_one_is_told_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = again(bucket(here, 4), golden=f"{here}/golden.csv")
    before = list(here.iterdir())
    assert cli.run(["nightly", str(write_job(here / "job.yaml", made))]) == EXIT_USER
    assert "golden.csv" in capsys.readouterr().err
    assert {path.name for path in here.iterdir()} == {*(path.name for path in before), "job.yaml"}

    run(made)
    known = sorted(ids(made))
    with (here / "golden.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "caption"], *([name, f"picture {n}"] for n, name in enumerate(known))])
    first = night(made)
    golden = next(gate for gate in first.gates if gate.name == "golden")
    assert golden.passed
    assert golden.value is not None
    for number in range(3):
        (here / "raw" / f"{number:02d}.tar").unlink()
    found = night(again(made, gone="delete", max_gone=1.0))
    worse = next(gate for gate in found.gates if gate.name == "golden")
    assert worse.before == golden.value
    assert worse.value is not None
    assert worse.value < golden.value - 0.01, "or nothing is tried here"
    assert (worse.passed, found.status, [gate.name for gate in found.refused]) == (False, "refused", ["golden"])


def test_killed_between_sync_and_publish(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bucket(here, 4)

    def killed(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_judged", killed)
        with pytest.raises(KeyboardInterrupt):
            night(made)
    assert "live" not in tables(made).open().tags.list()
    found = night(made)
    assert (found.status, found.came, found.rows_after) == ("published", 0, 12)
    assert found.live_after == found.versions["rows"]
    saved = NightOptions(watch={"all": Saved(text="x", min_score=-1, k=100)})
    report = night_report(tables(made), found, saved)
    assert {hit.id for hit in report.watched[0].hits} == {shown.id for shown in report.sample} == ids(made)
    assert len(report.listed_runs) == 1
    assert report.listed_runs != (found.run,)
    assert "before this night" in render("night.html.j2", r=report)
    before = ids(made)
    write_tar(here / "raw" / "97.tar", range(300, 302))
    report = night_report(tables(made), night(made), saved)
    assert {hit.id for hit in report.watched[0].hits} == {shown.id for shown in report.sample} == ids(made) - before


@pytest.mark.slow
@pytest.mark.parametrize("step", ["before_rows", "after_rows"])
def test_killed_inside_a_deletion(here: Path, step: str) -> None:
    made = bucket(here, 12, nightly={"gone": "delete"})
    night(made)
    (here / "raw" / "00.tar").unlink()

    class Killed(BaseException):
        pass

    def hook(name: str) -> None:
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        night(made, hook=hook)
    seen = open_table(made.table).count()
    assert seen == 36  # readers see what they saw
    found = night(made)
    assert (found.status, found.rows_after) == ("published", 33)
    assert not problems(made)


@pytest.mark.slow
def test_units_that_failed_are_tried_again_and_the_rest_is_published(here: Path, monkeypatch: Any) -> None:
    made = bucket(here, 4)
    broken = here / "raw" / "98.tar"
    broken.write_bytes(b"PK\x03\x04 this is no tar at all" * 100)
    found = night(made)
    assert (found.status, len(found.failed_units), found.rows_after) == ("units", 1, 12)
    assert found.live_after == found.versions["rows"]
    assert cli.run(["nightly", str(write_job(here / "job.yaml", made))]) == EXIT_UNITS_FAILED
    write_tar(broken, range(100, 103))
    assert (night(made).status, len(rows(made, "id"))) == ("published", 15)


@pytest.mark.slow
def test_a_picture_of_a_list_that_comes_later_is_taken_in(here: Path) -> None:
    from tests.build import picture

    for n in range(3):
        (here / f"{n}.jpg").write_bytes(picture(n))
    (here / "list.csv").write_text("image\n" + "".join(f"{here}/{n}.jpg\n" for n in range(4)))
    source = {"format": "manifest", "uri": f"{here}/list.csv", "image": "image"}
    made = job(here, source, nightly={"min_coverage": 0.5})
    first = night(made)
    assert (first.rows, first.rejects) == (3, {"not_found": 1})
    before = versions(made)
    assert (night(made).status, versions(made)) == ("nothing", before)
    (here / "3.jpg").write_bytes(picture(3))
    found = night(made)
    assert (found.status, found.retried, found.rows_after, found.changed) == ("published", 1, 4, 0)
    assert not problems(made)
    assert night(made).status == "nothing"
