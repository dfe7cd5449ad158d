"""A night that only takes rows out: no Ray, no model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.maintaining.delete import Options as Deletion
from clipmill.jobs.maintaining.delete import Which, delete
from clipmill.jobs.planning import listing
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.publishing.night import Night, nights
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.publishing.publish import publish
from clipmill.jobs.publishing.sync import Sync
from clipmill.jobs.running import embed
from clipmill.jobs.running.options import Options
from clipmill.jobs.table.ledger import live, read_ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import LeaseHeld
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.heads import HeadFile
from clipmill.schemas.unit.receipts import LedgerState
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.store.errors import StoreBusy
from clipmill.workers.write import reject_table
from tests.committed import Killed, entry_of, fragments, killer, make_tables, take_lease

SAID: list[str] = []


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFile:
    """Ten tars with three rows each, published."""
    monkeypatch.setattr("clipmill.jobs.running.run.run_units", lambda *given: pytest.fail("workers are started"))
    (tmp_path / "raw").mkdir()
    for number in range(10):
        (tmp_path / "raw" / f"{number}.tar").touch()
    made = JobFile.model_validate(
        {
            "table": f"{tmp_path}/db/images",
            "source": {"format": "webdataset", "uri": f"{tmp_path}/raw/*.tar"},
            "model": {"name": "stub:4"},
            "nightly": {"gone": "delete"},
        }
    )
    tables = make_tables(tmp_path)
    lease = take_lease(tables, "first")
    units = list(survey(made.source, made.storage, made.limits))
    rows = [text for unit in units for text in fragments(tables, unit.unit_id, [f"{unit.uri}#{i}" for i in range(3)])]
    Committer(tables, lease).commit([entry_of(unit, "first", 3) for unit in units], rows)
    lease.release()
    publish(made.table, made.storage, force=True, say=SAID.append)
    return made


def lose(job: JobFile, number: int) -> None:
    (Path(job.source.uri[0]).parent / f"{number}.tar").unlink()


def night(job: JobFile, **options: Any) -> Night:
    return nightly(job, say=SAID.append, **options)


def test_a_night_that_only_deletes_starts_no_workers(job: JobFile) -> None:
    lose(job, 3)
    found = night(job)
    assert (found.status, found.gone, found.deleted, found.rows_after, found.seen) == ("published", 1, 3, 27, 0)
    tables = Tables.at(job.table)
    assert found.live_after == int(tables.open().version)
    assert tables.open().count_rows(filter="id LIKE '%/3.tar%'") == 0
    alive = live(read_ledger(tables)).values()
    assert (len(alive), sum(entry.present for entry in alive)) == (9, 27)
    events = tables.open("runs").to_table(filter=f"run = '{found.run}'")["event"].to_pylist()
    assert sorted(events) == ["finished", "night", "started"]
    assert night(job).status == "nothing"


def test_a_night_that_only_deletes_brings_heads_up_to_date_and_writes_its_figures(job: JobFile, tmp_path: Path) -> None:
    save_file({"weight": np.ones((1, 4), np.float32), "bias": np.float32([1])}, tmp_path / "head.safetensors")
    with_head = job.model_copy(update={"heads": {"aesthetic": HeadFile(file=f"{tmp_path}/head.safetensors")}})
    lose(job, 3)
    figures = tmp_path / "clipmill.prom"
    found = night(with_head, metrics=figures)
    rows = Tables.at(job.table).open()
    assert (found.status, found.live_after) == ("published", int(rows.version))
    assert rows.count_rows(filter="aesthetic IS NOT NULL") == found.rows_after == 27
    assert 'clipmill_queue_units{state="waiting"' in figures.read_text()


def test_what_a_person_had_deleted_may_go_from_the_source_too(job: JobFile) -> None:
    """It is what is advised, lest it comes again under another name; it counts as no loss."""
    where = Which(where=" OR ".join(f"id LIKE '%/{number}.tar%'" for number in range(5)))
    assert delete(job.table, job.storage, where, Deletion(), confirm=lambda seen: None, say=SAID.append).rows == 15
    assert night(job).rows_after == 15
    for number in range(5):
        lose(job, number)
    found = night(job)
    assert (found.status, found.gone, found.rows_after, found.gone_samples) == ("published", 5, 15, 0)


def test_it_may_go_in_one_night_and_also_when_it_was_read_again_since(job: JobFile) -> None:
    """Deleted and gone between the same two nights: no gate takes that for a loss, read again or not."""
    where = Which(where=" OR ".join(f"id LIKE '%/{number}.tar%'" for number in range(5)))
    assert delete(job.table, job.storage, where, Deletion(), confirm=lambda seen: None, say=SAID.append).rows == 15
    tables = Tables.at(job.table)
    again = [e for e in read_ledger(tables).values() if e.deleted and not e.uri.endswith("/4.tar")]
    lease = take_lease(tables, "again")
    for was in again:  # as `embed` leaves it where a tar is read again
        made = {"unit_id": was.unit_id, "run": "again", "attempt": 1}
        stones = [Reject(id=f"{was.uri}#{i}", uri=was.uri, reason=Reason.DELETED) for i in range(3)]
        tables.append("rejects", reject_table(stones, fingerprint="0" * 16, **made))
        left = replace(was, **made, written=0, rejected=3, deleted=0, deleted_by="", table_version=0)
        Committer(tables, lease).commit([left], [])
    lease.release()
    for number in range(5):
        lose(job, number)
    found = night(job)
    assert (found.status, found.gone, found.rows_after, found.gone_samples) == ("published", 5, 15, 0), found.gates
    rows = next(gate for gate in found.gates if gate.name == "rows")
    assert "0.00% fewer, not counting 15 that were deleted on request" in rows.sentence


def test_what_was_accepted_as_gone_is_no_loss_after_many_nights_that_failed(
    job: JobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = job.model_copy(update={"nightly": job.nightly.model_copy(update={"gone": "keep", "max_gone": 0.15})})
    lose(job, 3)
    assert (night(kept).status, night(kept).status) == ("published", "nothing")

    def away(*args: object, **options: object) -> object:
        raise StoreBusy("the source answers 503 to everything", "try it later")

    with monkeypatch.context() as patch:
        patch.setattr(listing, "survey", away)
        for _ in range(31):  # as many as the history looks back, and one
            with pytest.raises(StoreBusy):
                night(kept)
    lose(job, 4)
    found = night(kept)
    assert (found.status, found.gone_samples, found.rows_after) == ("published", 6, 30), found.gates


@pytest.mark.parametrize("step", ["before_rows", "after_rows"])
def test_killed_in_the_deletion_the_next_night_ends_it(job: JobFile, step: str) -> None:
    lose(job, 3)
    with pytest.raises(Killed):
        night(job, hook=killer(step))
    found = night(job)
    assert (found.status, found.rows_after) == ("published", 27)
    retired = [entry for entry in read_ledger(Tables.at(job.table)).values() if entry.state == LedgerState.RETIRED]
    assert [Path(entry.uri).name for entry in retired] == ["3.tar"]


def test_a_deletion_beside_something_new_goes_the_whole_way(job: JobFile, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(job, 3)
    (Path(job.source.uri[0]).parent / "new.tar").touch()
    came: list[int] = []

    def whole_way(context: Any, todo: Sequence[WorkUnit]) -> Any:
        came.append(len(todo))
        raise KeyboardInterrupt

    monkeypatch.setattr("clipmill.jobs.running.run.run_units", whole_way)
    with pytest.raises(KeyboardInterrupt):
        embed.run(job, Options())
    assert came == [1]


def test_a_table_that_somebody_takes_before_the_gates_leaves_the_night_in_the_log(
    job: JobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(job, 3)
    tables = Tables.at(job.table)
    other = Lease(tables, "other", "embed", ttl_s=1.5)
    run = embed.run

    def then_taken(*args: Any) -> Any:
        summary = run(*args)
        other.take()
        other.keep()
        return summary

    with monkeypatch.context() as patch:
        patch.setattr(embed, "run", then_taken)
        try:
            with pytest.raises(LeaseHeld):
                night(job)
        finally:
            other.release()
    (last,) = nights(tables)[-1:]
    assert (last.status, last.deleted, last.rows_after) == ("failed", 3, 27)
    assert "is being written by" in last.error
    assert last.live_after != last.versions["rows"]
    assert night(job).status == "published"


@pytest.mark.parametrize(
    ("pattern", "removed", "lost"),
    [
        ("**/*.jpg", 0, 0),
        ("", 0, 0),
        ("**/*.jpg", 10, 10),
        ("[0-2]*.jpg", 0, 10),
        ("**/*.png", 0, 40),
    ],
)
def test_a_pattern_that_is_written_anew_loses_what_it_does_not_name(
    tmp_path: Path, pattern: str, removed: int, lost: int
) -> None:
    """Units of the pattern before are listed no more; their pictures are."""
    (tmp_path / "raw/sub").mkdir(parents=True)
    for name in [*(f"{n:02d}.jpg" for n in range(40)), "sub/a.jpg", "sub/a.png"]:
        (tmp_path / "raw" / name).write_bytes(b"picture")
    given = {
        "table": f"{tmp_path}/db/images",
        "source": {"format": "files", "uri": f"{tmp_path}/raw/*.jpg"},
        "model": {"name": "stub:4"},
        "nightly": {"max_gone": 1.0},
    }
    before = JobFile.model_validate(given)
    tables = make_tables(tmp_path)
    lease = take_lease(tables, "first")
    entries = [entry_of(unit, "first", unit.num_samples or 0) for unit in listing.list_source(before).units]
    Committer(tables, lease).commit(entries, fragments(tables, entries[0].unit_id, [str(n) for n in range(40)]))
    lease.release()
    for number in range(removed):
        (tmp_path / f"raw/{number:02d}.jpg").unlink()
    after = JobFile.model_validate({**given, "source": {"format": "files", "uri": f"{tmp_path}/raw/{pattern}"}})
    sync = Sync(after, tables)
    sync.review(make_plan(listing.list_source(after).units, read_ledger(tables)))
    assert (sync.gone_units, sync.gone_samples) == (1, lost)
    assert sync.gate is not None
    assert sync.gate.value == lost / 40
