"""Fragments are merged between commits: nothing moves, nothing is lost, and whoever else commits wins."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from clipmill.jobs.committing import compaction, heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor, tidy_side_tables
from clipmill.jobs.committing.holder import Holder
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import LeaseLost, UserError
from tests.committed import Killed, entry, fragments, ids, killer, make_tables, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def fill(tables: Tables, committer: Committer, units: range, *, per_commit: int = 5) -> None:
    """Units of two rows each, one fragment per unit."""
    names = [f"u{n}" for n in units]
    for start in range(0, len(names), per_commit):
        group = names[start : start + per_commit]
        texts = [f for u in group for f in fragments(tables, u, [f"{u}-a", f"{u}-b"])]
        committer.commit([entry(u, "a", 2) for u in group], texts)


def num_fragments(tables: Tables) -> int:
    return len(tables.open().get_fragments())


def everything(units: range) -> list[str]:
    return sorted(f"u{n}-{x}" for n in units for x in "ab")


def test_a_pass_comes_after_so_many_fragments_and_not_before(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    committer, compactor = Committer(tables, lease), Compactor(tables, lease, every=10)
    fill(tables, committer, range(9))
    compactor.added(9)
    assert (compactor.passes, num_fragments(tables)) == (0, 9)
    fill(tables, committer, range(9, 10))
    compactor.added(1)
    assert (compactor.passes, num_fragments(tables)) == (1, 1)
    assert ids(tables) == everything(range(10))


def test_fragments_that_are_large_enough_are_no_reason_for_another_pass(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    committer, compactor = Committer(tables, lease), Compactor(tables, lease, every=10, target_rows=2)
    fill(tables, committer, range(12))
    compactor.added(12)
    assert (compactor.passes, compactor.floor, num_fragments(tables)) == (0, 12, 12)
    compactor.added(9)
    assert compactor.floor == 12


def test_a_pinned_version_and_fragments_written_against_it_survive_a_pass(tables: Tables) -> None:
    """Workers write against the version the plan read; readers may still look at it."""
    lease = take_lease(tables, "a")
    committer = Committer(tables, lease)
    fill(tables, committer, range(8))
    pinned = tables.open()
    late = fragments(tables, "u8", ["u8-a", "u8-b"])
    Compactor(tables, lease).compact()
    committer.commit([entry("u8", "a", 2)], late)
    assert ids(tables) == everything(range(9))
    again = tables.open(version=pinned.version)
    assert sorted(again.to_table(columns=["id"])["id"].to_pylist()) == everything(range(8))


def test_healing_reads_across_a_pass(tables: Tables) -> None:
    """A driver dies between rows and ledger, another's pass comes after: the properties are still found."""
    lease = take_lease(tables, "a")
    fill(tables, Committer(tables, lease), range(4))

    dies = Committer(tables, lease, hook=killer("after_rows"))
    with pytest.raises(Killed):
        dies.commit([entry("u4", "a", 2)], fragments(tables, "u4", ["u4-a", "u4-b"]))
    lease.release()
    again = take_lease(tables, "b")
    Compactor(tables, again).compact()
    assert num_fragments(tables) == 1
    latest, healed = heal.heal(tables, Committer(tables, again))
    assert healed == 1
    assert set(ledger.live(latest)) == {f"u{n}" for n in range(5)}
    assert ids(tables) == everything(range(5))


def test_rows_leave_from_a_merged_fragment(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    committer = Committer(tables, lease)
    fill(tables, committer, range(6))
    Compactor(tables, lease).compact()
    committer.commit([entry("u9", "a", 2)], fragments(tables, "u9", ["u9-a", "u9-b"]), remove_units=["u3"])
    assert ids(tables) == sorted(set(everything(range(6))) - {"u3-a", "u3-b"} | {"u9-a", "u9-b"})


def test_a_pass_that_meets_a_deletion_loses_and_the_next_one_wins(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person deletes a row after the pass has read it: the row must not come back."""
    lease = take_lease(tables, "a")
    fill(tables, Committer(tables, lease), range(6))
    compactor = Compactor(tables, lease)
    check = lease.check

    def delete_then_check() -> None:
        tables.open().delete("id = 'u2-a'")
        check()

    monkeypatch.setattr(lease, "check", delete_then_check)
    compactor.compact()
    assert (compactor.conflicts, compactor.passes, num_fragments(tables)) == (1, 0, 6)
    monkeypatch.setattr(lease, "check", check)
    compactor.compact()
    assert (compactor.passes, num_fragments(tables)) == (1, 1)
    assert ids(tables) == sorted(set(everything(range(6))) - {"u2-a"})


def test_a_holder_that_lost_its_lease_merges_nothing(tables: Tables) -> None:
    sleeper = take_lease(tables, "a", ttl_s=0.1)
    fill(tables, Committer(tables, sleeper), range(4))
    time.sleep(0.2)
    take_lease(tables, "b")
    with pytest.raises(LeaseLost):
        Compactor(tables, sleeper).compact()
    assert num_fragments(tables) == 4


def test_a_disk_that_is_full_is_named(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging writes before it frees, so a night meets it here first: it was a traceback."""
    lease = take_lease(tables, "a")

    def full(*_: object) -> None:
        raise OSError("LanceError(IO): No space left on device (os error 28), structural.rs:191:9")  # as Lance says it

    monkeypatch.setattr(compaction, "_rewritten", full)
    with pytest.raises(UserError, match=r"no space left for \S+images.lance"):
        Compactor(tables, lease).compact()
    with pytest.raises(UserError, match=r"no space left for \S+images__runs.lance"):
        tidy_side_tables(tables, lease, every=0)


def test_fragments_that_a_column_is_being_filled_into_stay(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    fill(tables, Committer(tables, lease), range(4))
    compactor = Compactor(tables, lease)
    fill_lease = Lease(tables, "f", "reembed", key=FILL_KEY)
    fill_lease.take()
    compactor.compact()
    assert num_fragments(tables) == 4
    fill_lease.release()
    compactor.compact()
    assert num_fragments(tables) == 1


def test_a_fill_that_died_elsewhere_stops_it_for_one_term(tables: Tables) -> None:
    """By the own clock: what its machine took the time for says nothing."""
    lease = take_lease(tables, "a")
    fill(tables, Committer(tables, lease), range(4))
    gone = Holder(run="f", epoch=1, ttl_s=0.3, until=9e9, boot="another machine", pid=1)
    tables.open("runs").update_config({FILL_KEY: gone.text()})
    compactor = Compactor(tables, lease)
    compactor.compact()
    assert num_fragments(tables) == 4
    time.sleep(0.3)
    compactor.compact()
    assert num_fragments(tables) == 1


def test_indices_cover_merged_rows(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    committer = Committer(tables, lease)
    fill(tables, committer, range(6))
    tables.open().create_scalar_index("id", "BTREE")
    tables.open().create_scalar_index("unit_id", "BITMAP")
    fill(tables, committer, range(6, 9))
    Compactor(tables, lease).compact()
    rows = tables.open()
    assert all(rows.count_rows(f"id = '{name}'") == 1 for name in everything(range(9)))
    assert rows.count_rows("unit_id = 'u7'") == 2


def test_side_tables_are_merged_and_their_old_versions_leave(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    fill(tables, Committer(tables, lease), range(6), per_commit=1)
    for _ in range(3):
        lease.renew()
    tables.log_run("a", "embed", "started", "{}")
    before = ledger.read_ledger(tables)
    assert len(tables.open("units").get_fragments()) == 6
    tidy_side_tables(tables, lease, every=5)
    assert len(tables.open("units").get_fragments()) == 1
    assert len(tables.open("runs").versions()) > 4  # younger than a day: kept
    tidy_side_tables(tables, lease, every=5, keep=timedelta(0))
    assert len(tables.open("units").versions()) == len(tables.open("runs").versions()) == 1
    assert ledger.read_ledger(tables) == before
    lease.check()  # the lease is in the config, and the config is in every version
    lease.renew()
    lease.release()
    take_lease(tables, "b")
