"""Fewer, larger fragments while a run adds one per unit, and side tables that do not grow a file per event.

A commit rewrites the table's manifest, about 0.6 kB per fragment (by hand, 2026-11-21), so ten thousand units of a
picture each would make every commit 6 MB. Between two commits the committer therefore merges small fragments once
enough of them have come. Compaction is always the loser: it conflicts with whatever rewrites the same fragments, loses
its work, and the next pass tries again. It moves no row to another version's readers: versions stay until a cleanup
removes them, so what workers write against (the run's pinned version) and what healing reads (the properties of
commits) stay too.

Nothing here sits in memory whole: a task streams `BATCH_ROWS` rows at a time and makes one fragment of at most
`TARGET_ROWS`.
"""

import time
from datetime import timedelta
from typing import Any

from clipmill.jobs.committing.holder import Holder
from clipmill.jobs.committing.lease import Lease, fill_holder
from clipmill.jobs.table import memory, tombstones
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.tables import SIDE_TABLES, Tables, lance_module
from clipmill.workers.store.storage import retry_transient

EVERY = 1_000  # fragments that have to come before another pass is worth it
# A fragment of this many rows is left alone. Larger would mean rewriting the half-full last one at every pass.
TARGET_ROWS = 100_000
BATCH_ROWS = 1024
IO_BUFFER_BYTES = 64_000_000
# A thousand file footers would otherwise stay in memory: 23 MB of growth per pass instead of 50. (Copying pages as they
# are, `compaction_mode="try_binary_copy"`, takes 8 MB and a third of the time, but leaves pages of a row each. By hand,
# 2026-11-21, two shared cores.)
CACHE_BYTES = 4_000_000
BUDGET_S = 10.0  # of one pass: commits wait for it; at least one task is done
SIDE_EVERY = 50
KEEP = timedelta(days=1)  # versions of a side table: as long as a driver may sleep and still find what it read


class Compactor:
    """Called by the collector after each commit, in its thread; `lease` is the run's."""

    def __init__(
        self,
        tables: Tables,
        lease: Lease,
        *,
        every: int = EVERY,
        target_rows: int = TARGET_ROWS,
        holds_fill: bool = False,
    ) -> None:
        """`holds_fill`: the caller has the fill lease too, so that no fill begins meanwhile."""
        self.tables, self.lease, self.every, self.target_rows = tables, lease, every, target_rows
        self.holds_fill = holds_fill
        self.count = len(tables.open().get_fragments())
        self.floor = 0  # what the last pass left: large fragments are no reason for another
        self.passes = self.conflicts = 0
        self._fill: Holder | None = None
        self._fill_since_s = 0.0

    def added(self, fragments: int) -> None:
        """Note what a commit brought; compact where that was enough. Raises LeaseLost."""
        self.count += fragments
        if self.count - self.floor >= self.every:
            self.compact()

    def compact(self) -> None:
        """One pass within the time budget: the tasks that save the most fragments first. A store that does not answer
        is asked again, for the newest version's tasks: what landed unsaid is merged there, and no task any more."""
        if not self.holds_fill and self._is_being_filled():
            return
        try:
            self.passes += self._merge()
        except OSError as error:
            if not is_conflict(error):
                raise
            self.conflicts += 1
        self.count = self.floor = len(self.tables.open().get_fragments())
        memory.give_back()

    @retry_transient
    def _merge(self) -> bool:
        """Whether there was something."""
        rows = self.tables.open(cache_bytes=CACHE_BYTES)
        with writing(self.tables.rows):
            done = _rewritten(rows, self.target_rows)
        if done:
            self.lease.check()
            with writing(self.tables.rows):
                compaction().commit(rows, done)
        return bool(done)

    def _is_being_filled(self) -> bool:
        """Whether somebody may hold the fill lease: always, unless it was given back, its process is gone, or its value
        has stayed the same for a term by our clock. A pass that is left out costs nothing."""
        holder = fill_holder(self.tables)
        if holder is None:
            return False
        if holder != self._fill:
            self._fill, self._fill_since_s = holder, time.monotonic()
        return time.monotonic() - self._fill_since_s < holder.ttl_s


def compaction() -> Any:
    """Lance's plan, execute and commit of a compaction."""
    lance_module()
    from lance.optimize import Compaction

    return Compaction


def tasks_of(dataset: Any, target_rows: int = TARGET_ROWS, **more: Any) -> list[Any]:
    """What a compaction would do, the tasks that save the most fragments first. `more`: further options of Lance's."""
    options = {
        "target_rows_per_fragment": target_rows,
        "num_threads": 1,
        "batch_size": BATCH_ROWS,
        "io_buffer_size": IO_BUFFER_BYTES,
        **more,
    }
    return sorted(compaction().plan(dataset, options).tasks, key=lambda t: -len(t.fragments))


def _rewritten(dataset: Any, target_rows: int) -> list[Any]:
    """Results of the tasks there was time for, uncommitted."""
    tasks = tasks_of(dataset, target_rows)
    deadline = time.monotonic() + BUDGET_S
    done: list[Any] = []
    for task in tasks:
        if done and time.monotonic() >= deadline:
            break
        done.append(task.execute(dataset))
    return done


def tidy_side_tables(tables: Tables, lease: Lease, *, every: int = SIDE_EVERY, keep: timedelta = KEEP) -> None:
    """At the end of a run, under its lease: merge the ledger's, the rejects' and the runs' small fragments, and drop
    versions older than `keep`. A renewal of the lease is a version each, so an untidied day has 8,640 of them.

    A conflict is left to the next run. Raises LeaseLost.
    """
    assert keep >= KEEP or keep == timedelta(0), "less than a day is for tests that hold the only handle"

    @retry_transient
    def tidy(part: str) -> None:
        dataset = tables.open(part, cache_bytes=CACHE_BYTES)
        lease.check()
        with writing(tables.uri(part)):
            if len(dataset.get_fragments()) >= every:
                done = _rewritten(dataset, 1_000_000)
                if done:
                    compaction().commit(dataset, done)
            tables.open(part).cleanup_old_versions(keep, error_if_tagged_old_versions=False)

    for part in (*SIDE_TABLES, *([tombstones.PART] if tables.exists(tombstones.PART) else [])):
        try:
            tidy(part)
        except OSError as error:
            if not is_conflict(error):
                raise
