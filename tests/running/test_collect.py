"""The collector: every receipt lands once, groups land together, and an error is seen by whoever closes."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.planning.plan import Plan, Replacement
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import LeaseLost
from clipmill.schemas.job.config import Commit
from clipmill.schemas.unit.receipts import LedgerState
from tests.committed import (
    NEVER,
    alias,
    entry,
    fragments,
    ids,
    make_tables,
    receipt,
    take_lease,
    unit,
    wait_until,
)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def plan(names: Iterable[str], groups: tuple[Replacement, ...] = ()) -> Plan:
    return Plan(todo=tuple(unit(name) for name in names), done=(), replacements=groups)


def collector(tables: Tables, made: Plan, options: Commit = NEVER, **more: Any) -> Collector:
    committer = Committer(tables, take_lease(tables, "a"))
    return Collector(committer, replace(made, ledger=ledger.read_ledger(tables)), options, **more)


def commit_old(tables: Tables, *names: str) -> None:
    committer = Committer(tables, take_lease(tables, "before"))
    for name in names:
        committer.commit([entry(name, "before", 1)], fragments(tables, name, [f"{name}-row"]))
    committer.lease.release()


@pytest.mark.counted
def test_receipts_from_many_threads_land_exactly_once(tables: Tables) -> None:
    names = [f"u{n}" for n in range(24)]
    options = Commit.model_validate({"every_rows": 10, "every_s": 3600})
    one = collector(tables, plan(names), options)
    one.start()

    def offer(mine: list[str]) -> None:
        for name in mine:
            one.offer(receipt(tables, "a", name, [f"{name}-1", f"{name}-2"], bad=1))

    threads = [threading.Thread(target=offer, args=(names[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    assert ids(tables) == sorted(f"{name}-{n}" for name in names for n in (1, 2))
    entries = ledger.live(ledger.read_ledger(tables))
    assert set(entries) == set(names)
    assert all((e.seen, e.written, e.rejected) == (3, 2, 1) for e in entries.values())
    totals = one.totals
    assert (totals.units, totals.seen, totals.rows, totals.rejects) == (24, 72, 48, {"corrupt": 24})
    assert totals.source_bytes == 240
    assert 2 <= totals.commits <= 6, "more than the first and one for every ten rows"


def test_rows_are_visible_after_so_many_rows(tables: Tables) -> None:
    one = collector(tables, plan(["u0", "u1", "u2"]), Commit.model_validate({"every_rows": 4, "every_s": 3600}))
    one.start()
    one.offer(receipt(tables, "a", "u0", ["0"]))
    wait_until(lambda: one.totals.commits == 1)
    one.offer(receipt(tables, "a", "u1", ["1", "2"]))
    time.sleep(0.2)
    assert ids(tables) == ["0"]
    one.offer(receipt(tables, "a", "u2", ["3", "4"]))
    wait_until(lambda: one.totals.commits == 2)
    assert ids(tables) == ["0", "1", "2", "3", "4"]
    one.close()


def test_the_first_rows_are_visible_at_once_and_the_next_when_it_is_time(tables: Tables) -> None:
    one = collector(tables, plan(["u1", "u2", "u3"]), NEVER)
    one.start()
    one.offer(receipt(tables, "a", "u1", ["1"]))
    wait_until(lambda: one.totals.commits == 1)
    assert ids(tables) == ["1"]
    one.offer(receipt(tables, "a", "u2", ["2"]))
    one.offer(receipt(tables, "a", "u3", ["3"]))
    time.sleep(0.5)
    assert ids(tables) == ["1"]
    one.close()
    assert ids(tables) == ["1", "2", "3"]


def test_rows_are_visible_after_so_many_seconds(tables: Tables) -> None:
    one = collector(tables, plan(["u1", "u2"]), Commit.model_validate({"every_rows": 10**9, "every_s": 0.1}))
    one.start()
    one.offer(receipt(tables, "a", "u1", ["1"]))
    wait_until(lambda: one.totals.commits == 1)
    assert ids(tables) == ["1"]
    version = tables.open().version
    time.sleep(0.5)
    assert tables.open().version == version, "an empty commit was made"
    one.close()


def test_a_unit_waits_for_readers_while_it_is_held_and_while_its_commit_lasts(tables: Tables) -> None:
    commit_old(tables, "old")
    group = Replacement(old=frozenset({"old"}), new=frozenset({"new1", "new2"}))
    waiting: list[list[str]] = []
    one = collector(tables, plan(["u", "new1", "new2"], (group,)), Commit.model_validate({"every_rows": 1}))
    one.committer.hook = lambda step: waiting.append(list(one.uncommitted_s)) if step == "before_rows" else None
    one.start()
    one.offer(receipt(tables, "a", "new1", ["new-1"]))
    one.offer(receipt(tables, "a", "u", ["1"]))
    wait_until(lambda: bool(one.commits_s))
    assert waiting == [["new1", "u"]]
    assert list(one.uncommitted_s) == ["new1"], "it waits for its group"
    one.offer(receipt(tables, "a", "new2", ["new-2"]))
    one.close()
    assert not one.uncommitted_s


def test_a_group_is_held_back_and_replaces_the_old_rows_in_one_commit(tables: Tables) -> None:
    commit_old(tables, "old1", "old2", "other")
    group = Replacement(old=frozenset({"old1", "old2"}), new=frozenset({"new1", "new2"}))
    one = collector(tables, plan(["new1", "new2", "u3"], (group,)), Commit.model_validate({"every_s": 0.1}))
    one.start()
    one.offer(receipt(tables, "a", "new1", ["n1"]))
    one.offer(receipt(tables, "a", "u3", ["3"]))
    wait_until(lambda: one.totals.commits == 1)
    assert ids(tables) == ["3", "old1-row", "old2-row", "other-row"]
    one.offer(receipt(tables, "a", "new2", ["n2"]))
    one.close()
    seen = [sorted(rows(tables, version)) for version in range(1, int(tables.open().version) + 1)]
    both_or_neither = [("n1" in found, "n2" in found, "old1-row" in found, "old2-row" in found) for found in seen]
    assert set(both_or_neither[-2:]) == {(False, False, True, True), (True, True, False, False)}
    assert set(ledger.live(ledger.read_ledger(tables))) == {"new1", "new2", "u3", "other"}
    assert one.totals.retired_units == 2


def rows(tables: Tables, version: int) -> list[str]:
    return list(tables.open(version=version).to_table(columns=["id"])["id"].to_pylist())


def test_an_incomplete_group_changes_nothing(tables: Tables) -> None:
    """One of the new units failed: the old rows stay, and so does the plan for the next run."""
    commit_old(tables, "old")
    group = Replacement(old=frozenset({"old"}), new=frozenset({"new1", "new2"}))
    one = collector(tables, plan(["new1", "new2"], (group,)))
    one.start()
    one.offer(receipt(tables, "a", "new1", ["n1"]))
    one.close()
    assert not one.uncommitted_s, "nobody waits for it any more"
    assert ids(tables) == ["old-row"]
    assert set(ledger.live(ledger.read_ledger(tables))) == {"old"}


def test_units_that_nothing_replaces_leave_at_the_first_commit(tables: Tables) -> None:
    commit_old(tables, "old", "other")
    group = Replacement(old=frozenset({"old"}), new=frozenset())
    one = collector(tables, plan([], (group,)))
    one.start()
    one.close()
    assert ids(tables) == ["other-row"]
    assert set(ledger.live(ledger.read_ledger(tables))) == {"other"}


def test_a_unit_done_again_replaces_itself(tables: Tables) -> None:
    commit_old(tables, "u1")
    group = Replacement(old=frozenset({"u1"}), new=frozenset({"u1"}))
    one = collector(tables, plan(["u1"], (group,)))
    one.start()
    one.offer(receipt(tables, "a", "u1", ["again"]))
    one.close()
    assert ids(tables) == ["again"]
    assert ledger.live(ledger.read_ledger(tables))["u1"].run == "a"


def test_an_alias_keeps_the_old_rows_under_both_names(tables: Tables) -> None:
    commit_old(tables, "old")
    group = Replacement(old=frozenset({"old"}), new=frozenset({"new"}))
    one = collector(tables, plan(["new"], (group,)))
    one.start()
    one.offer(alias(unit("new"), "a", "old", "h"))
    one.close()
    assert not one.uncommitted_s, "nobody waits for it any more"
    assert ids(tables) == ["old-row"]
    entries = ledger.live(ledger.read_ledger(tables))
    assert entries["new"].state == LedgerState.ALIAS
    assert entries["old"].state == LedgerState.COMMITTED
    assert (one.totals.aliases, one.totals.rows, one.totals.retired_units) == (1, 0, 0)


def test_an_error_stops_the_commits_and_is_raised_at_close(tables: Tables) -> None:
    one = collector(tables, plan(["u1", "u2"]), Commit.model_validate({"every_rows": 1, "every_s": 3600}))
    one.start()
    runs = tables.open("runs")
    runs.update_config({"clipmill.lease": '{"run": "b", "epoch": 9, "until": 9999999999.0}'})
    one.offer(receipt(tables, "a", "u1", ["1"]))
    wait_until(lambda: one.error is not None)
    one.offer(receipt(tables, "a", "u2", ["2"]))
    with pytest.raises(LeaseLost):
        one.close()
    assert ids(tables) == []
    assert one.totals.commits == 0


def test_each_commit_says_how_many_fragments_it_brought(tables: Tables) -> None:
    told: list[int] = []
    one = collector(tables, plan(["u1", "u2", "u3"]), after_commit=told.append)
    one.start()
    one.offer(receipt(tables, "a", "u1", ["u1-1"]))
    wait_until(lambda: told == [1])
    one.offer(receipt(tables, "a", "u2", ["u2-1"]))
    one.offer(receipt(tables, "a", "u3", [], bad=2))  # nothing but rejects: no fragment
    one.close()
    assert told == [1, 1]
