"""A night with nothing to do, and one whose source is away: neither commits, neither starts Ray."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.planning import listing
from clipmill.jobs.planning.dry_run import dry_run
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.publishing.night import nights
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.publishing.publish import publish
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.errors import LeaseHeld, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.workers.store.errors import StoreBusy
from clipmill.workers.stub import StubEngine
from tests.committed import entry_of
from tests.fake_s3 import FakeS3

UNITS = 2_000
SAID: list[str] = []


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> JobFile:
    folder = tmp_path_factory.mktemp("idle")
    (folder / "raw").mkdir()
    for number in range(UNITS):
        (folder / "raw" / f"{number:05d}.tar").touch()
    return published(folder, f"{folder}/raw/*.tar")


def published(folder: Path, uri: str, **storage: str) -> JobFile:
    """A published table without rows whose ledger has every tar of the source. Of benchmarks/idle_night.py too."""
    made = JobFile.model_validate(
        {
            "table": f"{folder}/db/images",
            "source": {"format": "webdataset", "uri": uri},
            "model": {"name": "stub"},
            "storage": storage,
            "nightly": {"gone": "delete", "min_coverage": 0},
        }
    )
    (folder / "db").mkdir(parents=True)
    tables = Tables.at(made.table)
    fingerprint = StubEngine.from_name("stub").fingerprint
    schema = rows_schema(
        dim=fingerprint.dim, keep={}, fingerprint_json=fingerprint.to_json(), vocabulary_json=None, thumbnails=False
    )
    tables.create("", schema)
    tables.ensure_side_tables()
    ledger.append(
        tables,
        [
            replace(entry_of(unit, "r", 1, rejected=1, version=1), content_hash=unit.unit_id, left_out="{}")
            for unit in survey(made.source, made.storage, made.limits)
        ],
    )
    publish(made.table, made.storage, force=True, say=SAID.append)
    return made


def versions(job: JobFile) -> list[int]:
    tables = Tables.at(job.table)
    return [int(tables.open(part).version) for part in ("", "units", "rejects", "runs")]


def test_a_night_with_nothing_new_commits_nothing_and_takes_about_as_long_as_plan(job: JobFile) -> None:
    before = versions(job)
    found = nightly(job, say=SAID.append)
    assert (found.status, found.units, found.seen, found.gates) == ("nothing", UNITS, 0, ())
    assert versions(job) == before
    plan_s, night_s = least_cpu_s(lambda: dry_run(job)), least_cpu_s(lambda: nightly(job, say=SAID.append))
    assert night_s <= 1.5 * plan_s + 0.1, f"nightly {night_s:.3f} s, plan {plan_s:.3f} s"  # 0.1: opening four tables
    assert versions(job) == before


def test_its_time_grows_no_faster_than_the_number_of_units(tmp_path: Path) -> None:
    """CPU time, because the machine may do other things: eight times the units take about eight times of it, and a step
    that compares each with each would take sixty-four times. Over S3, where the pages count too."""
    cpu_s = {}
    with FakeS3().running() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for units in (1_000, 8_000):
            store.listing = [f"{units}/{number:06d}.tar" for number in range(units)]
            made = published(tmp_path / str(units), f"s3://b/{units}/*.tar", endpoint_url=store.endpoint)
            before = versions(made)
            cpu_s[units] = least_cpu_s(partial(nightly, made, say=SAID.append), times=3)
            assert versions(made) == before
    assert cpu_s[8_000] <= 16 * cpu_s[1_000], cpu_s


def least_cpu_s(call: Callable[[], object], times: int = 5) -> float:
    took = []
    for _ in range(times):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    return min(took)


def test_a_source_that_throttles_is_a_failed_night_and_deletes_nothing(
    job: JobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(job)

    def throttled(*args: object, **options: object) -> object:
        raise StoreBusy("s3://lake answers 503 to everything", "try it later")

    monkeypatch.setattr(listing, "survey", throttled)
    with pytest.raises(StoreBusy):
        nightly(job, say=SAID.append)
    assert versions(job)[:3] == before[:3]
    last = nights(Tables.at(job.table))[-1]
    assert (last.status, last.deleted, last.live_after) == ("failed", 0, before[0])
    assert "503" in last.error


def test_an_empty_bucket_is_refused(job: JobFile, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions(job)
    lost = job.model_copy(update={"source": job.source.model_copy(update={"uri": ("/there/is/nothing/*.tar",)})})
    found = nightly(lost, say=SAID.append)
    assert (found.status, [gate.name for gate in found.refused]) == ("refused", ["gone"])
    assert f"all {UNITS:,} samples would be gone" in found.gates[0].sentence
    assert found.run == nights(Tables.at(job.table))[-1].run != ""  # by which the page and the log know it
    anything = lost.model_copy(update={"nightly": lost.nightly.model_copy(update={"max_gone": 1.0, "gone": "delete"})})
    assert nightly(anything, say=SAID.append).status == "refused"
    assert versions(job)[:3] == before[:3]
    fresh = lost.model_copy(update={"table": f"{job.table}2"})
    with pytest.raises(UserError):  # of a table that is not there it is a mistake in the job file
        nightly(fresh, say=SAID.append)


def test_a_golden_file_that_is_missing_is_told_before_the_source_is_looked_at(
    job: JobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "survey", lambda *args, **options: pytest.fail("the night has begun"))
    missing = job.model_copy(update={"nightly": job.nightly.model_copy(update={"golden": "/there/is/no.csv"})})
    with pytest.raises(UserError, match="golden"):
        nightly(missing, say=SAID.append)


def test_a_night_that_meets_another_is_for_later(job: JobFile) -> None:
    (Path(job.source.uri[0]).parent / "new.tar").touch()
    tables = Tables.at(job.table)
    other = Lease(tables, "other", "nightly", ttl_s=1.5)
    other.take()
    other.keep()
    known = len(nights(tables))
    try:
        with pytest.raises(LeaseHeld):
            nightly(job, say=SAID.append)
    finally:
        other.release()
    assert len(nights(tables)) == known
