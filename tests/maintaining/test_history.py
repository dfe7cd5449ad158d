"""What is cut of the ledger and the run log changes no answer, stays cut, and lets no late holder bring it back."""

import json
import math
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.maintaining import history
from clipmill.jobs.maintaining.history import NIGHTS, Event, cut_ledger, cut_log, void_events
from clipmill.jobs.maintaining.maintain import maintain
from clipmill.jobs.maintaining.words import maintained_in_words
from clipmill.jobs.planning.estimate import Worker, from_last_run
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.publishing.gates import deleted_rows
from clipmill.jobs.publishing.night import Night, nights, remember
from clipmill.jobs.publishing.publish import held_back, rollback
from clipmill.jobs.reporting.arrivals import arrivals
from clipmill.jobs.reporting.changes import read_changes
from clipmill.jobs.reporting.runs import read_runs
from clipmill.jobs.table import ledger
from clipmill.jobs.table.runs import last_job
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import status
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.errors import LeaseLost
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
from tests.committed import Killed, entry, fragments, make_tables, take_lease, unit

LAST = 12
UNITS = ("a", "b", "c")
_STATES = st.sampled_from(list(LedgerState))
_EVENTS = st.lists(
    st.tuples(st.sampled_from(UNITS), st.integers(1, LAST), _STATES, st.sampled_from(UNITS), st.integers(0, 9)),
    max_size=14,
)


def silent(text: str) -> None:
    pass


@given(_EVENTS, st.sets(st.integers(1, LAST)), st.one_of(st.just(math.inf), st.integers(0, LAST)), st.integers(1, 5))
def test_no_version_that_is_there_has_another_ledger(
    drawn: list[tuple[str, int, LedgerState, str, int]], kept: set[int], since: float, chunk: int
) -> None:
    """Nor after a part of what is to go has gone, as where a kill came between."""
    entries = [
        replace(entry(name, f"r{at}", 1, state=state), table_version=at, alias_of=other, deleted_by="d" * (rare == 0))
        for name, at, state, other, rare in drawn
    ]
    events = [
        Event(number, one.unit_id, one.table_version, one.state, one.deleted_by) for number, one in enumerate(entries)
    ]
    versions = sorted(kept | {LAST + 1})
    void = list(void_events(events, versions, since))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ROWS_PER_DELETE", chunk)
        chunks = list(history._chunks(void))
    assert [event for some in chunks for event in some] == void
    gone: set[int] = set()
    for some in [[], *chunks]:
        gone |= {event.row_id for event in some}
        left = [one for number, one in enumerate(entries) if number not in gone]
        for version in versions:
            before, after = (
                ledger.live(ledger.fold(one for one in of if one.table_version <= version)) for of in (entries, left)
            )
            assert before == after
        assert max([0, *(one.table_version for one in entries)]) == max([0, *(one.table_version for one in left)])
        assert [one for one in entries if one.deleted_by or one.table_version >= since] == [
            one for one in left if one.deleted_by or one.table_version >= since
        ]


def test_what_was_void_long_ago_is_cut() -> None:
    """A unit that came and left is nothing; of one that was written anew the last event is left."""
    events = [
        Event(0, "left", 2, LedgerState.COMMITTED, ""),
        Event(1, "left", 3, LedgerState.RETIRED, ""),
        Event(2, "anew", 2, LedgerState.COMMITTED, ""),
        Event(3, "anew", 4, LedgerState.COMMITTED, ""),
        Event(4, "last", 9, LedgerState.RETIRED, ""),
    ]
    assert [event.row_id for event in void_events(events, [7, 9], math.inf)] == [2, 0, 1]
    assert [event.row_id for event in void_events(events, [2, 9], math.inf)] == []
    assert [event.row_id for event in void_events(events, [7, 9], 3)] == [2, 0]


def of_night(number: int) -> list[LedgerEntry]:
    return [entry(f"n{number:03d}", f"run{number:03d}", 2, uri="file:///raw.tar")]


def a_night(tables: Tables, lease: Lease, number: int) -> None:
    """One unit takes the place of the one before; every third is refused, as the log has it."""
    before = int(tables.open().version)
    run = f"run{number:03d}"
    log(tables, run, "started", {"table": "t", "number": number, "nightly": {"min_coverage": 0.9}})
    new, old = of_night(number), of_night(number - 1) if number else []
    retired = [replace(one, state=LedgerState.RETIRED) for one in old]
    rows = fragments(tables, new[0].unit_id, [f"{number:03d}{n}" for n in range(2)], of=unit("", uri=new[0].uri))
    Committer(tables, lease).commit([*retired, *new], rows, remove_units=[one.unit_id for one in old])
    if number == 6:  # and one that stays
        Committer(tables, lease).commit([entry("stays", run, 1)], fragments(tables, "stays", ["stays"]))
    now = int(tables.open().version)
    device = {"device": "cuda" if number == 3 else "cpu", "samples_per_s": 10.0 + number, "seen": 2, "rows": 2}
    log(tables, run, "finished", {**device, "left_out_listed": {".txt": number}})
    night = Night(run=run, table="t", at=f"{number:03d}", version_before=before, versions={"rows": now}, came=1)
    remember(tables, night)


def log(tables: Tables, run: str, event: str, detail: dict[str, Any]) -> None:
    tables.log_run(run, "nightly", event, json.dumps(detail), table_id=tables.id())


@pytest.fixture(scope="module")
def old_table(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Forty nights, of which readers were taken back once, by hand, on the fifth; only a few versions are there."""
    tables = make_tables(tmp_path_factory.mktemp("old"))
    lease = take_lease(tables, "a")
    uri = f"{tables.database}/{tables.name}"
    for number in range(NIGHTS + 10):
        a_night(tables, lease, number)
        if number in (2, 4):
            tables.open().tags.create(f"kept{number}", tables.open().version)
        if number == 4:
            lease.release()
            tables.open().tags.create("live", tables.open().version)
            rollback(uri, Storage(), to=str(tables.open().tags.list()["kept2"]["version"]), say=silent)
            lease = take_lease(tables, "a")
    tables.open().cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    lease.release()
    return tables


def answers(tables: Tables, versions: list[int]) -> dict[str, Any]:
    """What is asked of the ledger and the log."""
    uri = f"{tables.database}/{tables.name}"
    latest = ledger.read_ledger(tables)
    last = of_night(NIGHTS + 9)[0]
    listed = [unit(last.unit_id, uri=last.uri), unit("new"), unit("n001", uri=last.uri)]
    known = nights(tables)
    found = status(uri, Storage())
    return {
        "live": ledger.live(latest),
        "at": [(version, ledger.live(ledger.read_ledger(tables, up_to=version))) for version in versions],
        "deleted": [deleted_rows(ledger.read_ledger(tables, up_to=version)) for version in versions],
        "plan": replace(make_plan(listed, latest), ledger={}),
        "healing": heal.needs_healing(tables, latest),
        "known": max(one.table_version for one in latest.values()),
        "nights": known,
        "changes": [
            asdict(read_changes(tables, one.run, since=one.version_before, until=one.versions["rows"])) for one in known
        ],
        "runs": read_runs(tables),
        "job": last_job(tables),
        "held": held_back(tables),
        "estimates": [from_last_run(tables, Worker(gpus=gpus, cores=2)) for gpus in (0.0, 1.0)],
        "arrivals": [
            arrivals(tables, version=versions[-1]),
            arrivals(tables, version=versions[-1], since="2000-01-01"),
        ],
        "status": {**asdict(found), "version": 0, "fragments": 0, "readers": "", "held_by": None},
        "problems": verify(uri, Storage()).problems,
    }


def test_no_answer_changes_and_what_is_left_is_bounded(old_table: Tables) -> None:
    lease = take_lease(old_table, "b")
    versions = [int(one["version"]) for one in old_table.open().versions()]
    before = answers(old_table, versions)
    pinned = {part: old_table.open(part) for part in ("units", "runs")}
    sizes = {part: one.count_rows() for part, one in pinned.items()}
    done = maintain(old_table, lease, say=silent)
    lease.release()
    assert done.cut > 0
    assert "left" in maintained_in_words(done)
    after = answers(old_table, versions)
    for name, found in before.items():
        assert after[name] == found, name
    assert before["held"] is not None
    assert before["problems"] == []
    assert {part: one.count_rows() for part, one in pinned.items()} == sizes, "a reader lost what it had opened"
    units, runs = (old_table.open(part) for part in ("units", "runs"))
    # Two events a night, the unit that stays, and of each old version that is tagged the unit and that it left.
    assert units.count_rows() <= 2 * NIGHTS + 1 + 3 * 2
    # Three lines a night; the table's first one, the rollback, the run on a GPU, and when that of the unit began.
    assert runs.count_rows() == 3 * NIGHTS + 4
    assert len(units.get_fragments()) == 1
    lease = take_lease(old_table, "c")
    assert (cut_ledger(old_table, lease), cut_log(old_table, lease)) == (0, 0)
    lease.release()


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def unit_that_left(tables: Tables, lease: Lease) -> None:
    commit = Committer(tables, lease).commit
    commit([entry("u1", lease.run, 1)], fragments(tables, "u1", ["one"]))
    commit([entry("u1", lease.run, 1, state=LedgerState.RETIRED)], [], remove_units=["u1"])
    commit([entry("u2", lease.run, 1)], fragments(tables, "u2", ["two"]))
    tables.open().cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)


def test_a_holder_that_slept_cannot_bring_back_what_was_cut(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows had landed and were entered by whoever came next; what says that they left is gone by now."""
    first = take_lease(tables, "a")
    slow = Committer(tables, first)
    unit_that_left(tables, first)
    looked = first.check

    def sleeps_after_its_look() -> None:
        looked()
        monkeypatch.setattr(first, "check", looked)
        first.release()
        other = take_lease(tables, "b")
        assert cut_ledger(tables, other) == 2
        other.release()

    monkeypatch.setattr(first, "check", sleeps_after_its_look)
    late = replace(entry("u1", "a", 1), table_version=2)
    with pytest.raises(LeaseLost):
        slow.enter([late])
    assert set(ledger.read_ledger(tables)) == {"u2"}
    ledger.append(tables, [late])  # what it would have done without the fence
    assert "u1" in ledger.live(ledger.read_ledger(tables))


def test_killed_between_its_steps_nothing_is_lost(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = take_lease(tables, "a")
    unit_that_left(tables, lease)
    before = ledger.live(ledger.read_ledger(tables))

    def dies(*args: Any) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(history, "_delete", dies)
        with pytest.raises(Killed):
            cut_ledger(tables, lease)
    lease.release()
    lease = take_lease(tables, "b")
    latest, healed = heal.heal(tables, Committer(tables, lease))
    assert (ledger.live(latest), healed) == (before, 0)
    assert cut_ledger(tables, lease) == 2
    assert ledger.live(ledger.read_ledger(tables)) == before
    assert not heal.needs_healing(tables, ledger.read_ledger(tables))
    lease.release()


def test_what_a_person_had_deleted_is_never_cut(tables: Tables) -> None:
    """Tombstones count only while the ledger names their delete."""
    lease = take_lease(tables, "a")
    commit = Committer(tables, lease).commit
    commit([entry("u1", "a", 2)], fragments(tables, "u1", ["one", "two"]))
    commit([replace(entry("u1", "a", 2), deleted=1, deleted_by="gone")], [], remove_ids={"u1": ["one"]})
    commit([replace(entry("u1", "a", 2, state=LedgerState.RETIRED), deleted_by="later")], [], remove_units=["u1"])
    commit([entry("u2", "a", 1)], fragments(tables, "u2", ["three"]))
    tables.open().cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    assert cut_ledger(tables, lease) == 0
    assert tables.open("units").count_rows() == 4
    lease.release()
