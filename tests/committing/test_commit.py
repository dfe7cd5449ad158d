"""Nothing lost, nothing twice: the fenced commit, the lease, healing, and what stale holders can do (nothing)."""

import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import STEPS, Committer
from clipmill.jobs.committing.lease import KEY, Lease
from clipmill.jobs.table import ledger
from clipmill.jobs.table.readers import FENCE_TAG
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import ClipmillError, LeaseHeld, LeaseLost
from clipmill.schemas.unit.receipts import LedgerState
from tests.committed import Killed, entry, fragments, ids, killer, make_tables, mortal, receipt, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def unledgered(tables: Tables) -> Lease:
    """Another driver's, after one died between the rows of u1 and the ledger."""
    with mortal(tables, "a") as lease:
        dies = Committer(tables, lease, hook=killer("after_rows"))
        dies.commit([entry("u1", "a", 1)], fragments(tables, "u1", ["1"]))
    return take_lease(tables, "b")


def test_rows_rejects_and_ledger_land_together(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    done = receipt(tables, "a", "u1", ["1", "2"], bad=1)
    version = Committer(tables, lease).commit(
        [entry("u1", "a", 2)], done.fragments, reject_fragments=done.reject_fragments
    )
    assert ids(tables) == ["1", "2"]
    assert tables.open("rejects").count_rows() == 1
    assert ledger.read_ledger(tables)["u1"].table_version == version


@pytest.mark.parametrize("step", STEPS)
def test_a_driver_that_dies_at_any_step_is_healed(tables: Tables, step: str) -> None:
    """Whatever the step, the next run finds the unit either wholly done or not done at all."""
    lease = take_lease(tables, "a")
    done = receipt(tables, "a", "u1", ["1", "2"], bad=1)
    with pytest.raises(Killed):
        Committer(tables, lease, hook=killer(step)).commit(
            [entry("u1", "a", 2)], done.fragments, reject_fragments=done.reject_fragments
        )
    landed = step in ("after_rows", "after_ledger")
    assert ids(tables) == (["1", "2"] if landed else [])
    lease.release()
    again = take_lease(tables, "b")
    latest, healed = heal.heal(tables, Committer(tables, again))
    assert healed == (1 if step == "after_rows" else 0)
    assert ("u1" in ledger.live(latest)) == landed
    assert ledger.live(ledger.read_ledger(tables)) == ledger.live(latest)
    if not landed:
        redone = receipt(tables, "b", "u1", ["1", "2"], bad=1)
        Committer(tables, again).commit(
            [entry("u1", "b", 2)], redone.fragments, reject_fragments=redone.reject_fragments
        )
    assert ids(tables) == ["1", "2"]


def test_healing_twice_changes_nothing(tables: Tables) -> None:
    again = unledgered(tables)
    first, entered = heal.heal(tables, Committer(tables, again))
    assert entered == 1
    second, healed = heal.heal(tables, Committer(tables, again))
    assert (first, 0) == (second, healed)


def test_rows_whose_properties_are_gone_leave_and_their_unit_is_done_again(tables: Tables) -> None:
    again = unledgered(tables)
    assert ids(tables) == ["1"]
    tables.open().cleanup_old_versions(timedelta(0), delete_unverified=False, error_if_tagged_old_versions=False)
    latest, healed = heal.heal(tables, Committer(tables, again))
    assert (healed, latest, ids(tables)) == (0, {}, [])


def test_a_holder_that_slept_past_its_lease_cannot_land(tables: Tables) -> None:
    """The fence, not the clock: the late transaction was prepared before the takeover."""
    sleeper = take_lease(tables, "a", ttl_s=0.2)
    written = fragments(tables, "u1", ["1"])
    woke: list[Lease] = []

    def take_over(step: str) -> None:
        if step == "before_rows" and not woke:
            time.sleep(0.3)
            woke.append(take_lease(tables, "b"))

    with pytest.raises(LeaseLost):
        Committer(tables, sleeper, hook=take_over).commit([entry("u1", "a", 1)], written)
    assert ids(tables) == []
    Committer(tables, woke[0]).commit([entry("u1", "b", 1)], fragments(tables, "u1", ["1"]))
    assert ids(tables) == ["1"]


def test_even_a_late_commit_that_passed_the_lease_check_dies_at_the_fence(tables: Tables) -> None:
    """The takeover comes between the check and the commit; conflict detection is all that is left."""
    sleeper = take_lease(tables, "a", ttl_s=0.2)
    committer = Committer(tables, sleeper)
    written = fragments(tables, "u1", ["1"])
    real_check, woke = sleeper.check, []

    def check_then_sleep() -> None:
        real_check()
        if not woke:
            time.sleep(0.3)
            woke.append(take_lease(tables, "b"))

    sleeper.check = check_then_sleep  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        committer.commit([entry("u1", "a", 1)], written)
    assert committer.conflicts == 1
    assert ids(tables) == []


def test_the_fence_survives_cleanup_of_everything_else(tables: Tables) -> None:
    """Lance does not see conflicts with versions that were cleaned up, so the newest fence is tagged."""
    stale = tables.open()
    lease = take_lease(tables, "b")
    tables.open().cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    operation = lance.LanceOperation.Update(removed_fragment_ids=[2**32 - 1])
    with pytest.raises(lance.commit.CommitConflictError):
        lance.LanceDataset.commit(stale, lance.Transaction(stale.version, operation))
    assert tables.open().tags.list()[FENCE_TAG]["version"] <= tables.open().version
    lease.check()


def test_one_of_two_drivers_is_told_why_it_may_not(tables: Tables) -> None:
    first = take_lease(tables, "a", ttl_s=1.0)
    first.keep()
    said: list[str] = []
    with pytest.raises(LeaseHeld, match="run a") as error:
        Lease(tables, "b", "embed").take(on_wait=said.append, poll_s=0.05)
    assert error.value.exit_code == 5
    assert error.value.hint
    assert len(said) == 1
    first.release()
    Lease(tables, "b", "embed").take()


def test_a_dead_process_on_this_machine_is_not_waited_for(tables: Tables) -> None:
    take_lease(tables, "a", ttl_s=3600)
    runs = tables.open("runs")
    holder = json.loads(runs.config()[KEY])
    runs.update_config({KEY: json.dumps({**holder, "pid": 2**22 + 1})})
    start = time.monotonic()
    Lease(tables, "b", "embed").take()
    assert time.monotonic() - start < 60


def test_many_drivers_take_the_lease_one_at_a_time(tables: Tables) -> None:
    """Eight threads race for a free lease; one wins, the rest are refused while it is alive."""
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        lease = Lease(tables, f"r{number}", "embed", ttl_s=1.5)
        barrier.wait()
        try:
            lease.take(poll_s=0.05)
            lease.keep()
            outcomes.append("won")
        except LeaseHeld:
            outcomes.append("refused")

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["won"]


def test_replaced_rows_leave_in_the_commit_that_brings_the_new_ones(tables: Tables) -> None:
    committer = Committer(tables, take_lease(tables, "a"))
    committer.commit([entry("old", "a", 2)], fragments(tables, "old", ["1", "2"]))
    committer.commit([entry("other", "a", 1)], fragments(tables, "other", ["9"]))
    retired = entry("old", "a", 2, state=LedgerState.RETIRED)
    committer.commit([retired, entry("new", "a", 2)], fragments(tables, "new", ["1", "3"]), remove_units=["old"])
    assert ids(tables) == ["1", "3", "9"]
    assert set(ledger.live(ledger.read_ledger(tables))) == {"other", "new"}


def test_replacing_rows_inside_a_compacted_fragment(tables: Tables) -> None:
    committer = Committer(tables, take_lease(tables, "a"))
    for unit_id, names in (("u1", ["1"]), ("u2", ["2"]), ("u3", ["3"])):
        committer.commit([entry(unit_id, "a", 1)], fragments(tables, unit_id, names))
    tables.open().optimize.compact_files(target_rows_per_fragment=1000)
    assert len(tables.open().get_fragments()) == 1
    committer.commit([entry("u4", "a", 1)], fragments(tables, "u4", ["4"]), remove_units=["u2"])
    assert ids(tables) == ["1", "3", "4"]


def test_compaction_beside_a_commit_loses_nothing(tables: Tables) -> None:
    committer = Committer(tables, take_lease(tables, "a"))
    for number in range(4):
        committer.commit([entry(f"u{number}", "a", 1)], fragments(tables, f"u{number}", [str(number)]))

    def compact(step: str) -> None:
        if step == "before_rows" and not done:
            done.append(step)
            tables.open().optimize.compact_files(target_rows_per_fragment=1000)

    done: list[str] = []
    committer.hook = compact
    committer.commit([entry("u9", "a", 1)], fragments(tables, "u9", ["9"]), remove_units=["u1"])
    assert ids(tables) == ["0", "2", "3", "9"]


def test_rows_are_found_through_indices_made_before_and_after(tables: Tables) -> None:
    """The Update must not hide new rows from an index (update_mode is left empty for this)."""
    committer = Committer(tables, take_lease(tables, "a"))
    committer.commit([entry("u1", "a", 2)], fragments(tables, "u1", ["1", "2"]))
    tables.open().create_scalar_index("id", "BTREE")
    tables.open().create_scalar_index("unit_id", "BITMAP")
    committer.commit([entry("u2", "a", 1)], fragments(tables, "u2", ["3"]))
    assert tables.open().count_rows("id = '3'") == 1
    assert tables.open().count_rows("unit_id = 'u2'") == 1
    tables.open().optimize.optimize_indices()
    assert tables.open().count_rows("id IN ('1', '3')") == 2


def test_fragments_of_other_field_ids_are_refused(tables: Tables) -> None:
    """After a rename of columns a stale worker's vectors would land under the wrong name."""
    stale = fragments(tables, "u1", ["1"])
    dataset = tables.open()
    dataset.add_columns({"vector2": "cast(null as int)"})
    committer = Committer(tables, take_lease(tables, "a"))
    with pytest.raises(ClipmillError, match="changed during the run"):
        committer.commit([entry("u1", "a", 1)], stale)
    assert ids(tables) == []


def test_a_late_ledger_entry_changes_nothing() -> None:
    """A holder that slept between rows and ledger appends an old event after a newer one."""
    from dataclasses import replace

    new = replace(entry("u1", "b", 5, state=LedgerState.RETIRED), table_version=9)
    late = replace(entry("u1", "a", 2), table_version=4)
    assert ledger.fold([new, late]) == ledger.fold([late, new]) == {"u1": new}
    redone = replace(entry("u1", "c", 5), table_version=9)
    assert ledger.live(ledger.fold([redone, new]))["u1"].run == "c"


@pytest.mark.s3
def test_the_same_on_s3(s3) -> None:  # type: ignore[no-untyped-def]
    tables = make_tables(s3.uri, storage=s3.storage)
    lease = take_lease(tables, "a", ttl_s=0.5)
    committer = Committer(tables, lease)
    committer.commit([entry("u1", "a", 2)], fragments(tables, "u1", ["1", "2"]))
    late = fragments(tables, "u2", ["3"])
    time.sleep(0.6)
    second = take_lease(tables, "b")
    with pytest.raises(LeaseLost):
        committer.commit([entry("u2", "a", 1)], late)
    Committer(tables, second).commit([entry("u2", "b", 1)], fragments(tables, "u2", ["3"]))
    assert ids(tables) == ["1", "2", "3"]
    assert set(ledger.live(ledger.read_ledger(tables))) == {"u1", "u2"}
