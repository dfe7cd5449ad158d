"""Between workers and the table: gathers receipts and commits them every N rows or T seconds, in its own thread.

A unit that replaces others is held back until the last of its group is here, and then they land together.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.duplicates import Checked
from clipmill.jobs.committing.moves import IsGone, Moves
from clipmill.jobs.planning.plan import Plan, Replacement
from clipmill.schemas.job.config import Commit
from clipmill.schemas.unit import left_out
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState, Outcome, Receipt
from clipmill.schemas.unit.units import WorkUnit

# Replaces duplicates among new rows by rejects: (receipts, unit ids that leave).
Deduplicate = Callable[[list[Receipt], list[str]], Checked]
# Told how many fragments a commit brought; may compact the table before the next one.
AfterCommit = Callable[[int], None]


@dataclass(slots=True)
class Totals:
    """What has been made visible so far."""

    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    unread_first: dict[str, str] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)  # of the rows, by column
    left_out: dict[str, int] = field(default_factory=dict)  # by ending
    aliases: int = 0
    source_bytes: int = 0
    retired_units: int = 0
    moved_units: int = 0
    moved_rows: int = 0  # from units of which not all moved to one place
    commits: int = 0
    first_commit_at: float = 0.0


class Collector:
    """`offer` receipts from any thread; `close` commits the rest. After an error, `error` says which."""

    def __init__(
        self,
        committer: Committer,
        plan: Plan,
        options: Commit,
        deduplicate: Deduplicate | None = None,
        after_commit: AfterCommit = lambda fragments: None,
        is_gone: IsGone = lambda entry: False,
    ) -> None:
        """`is_gone`: whether nothing is left where a unit that is no longer listed came from."""
        self.committer, self.options = committer, options
        self.deduplicate, self.after_commit = deduplicate, after_commit
        self.units: dict[str, WorkUnit] = {unit.unit_id: unit for unit in plan.todo}
        self.latest = dict(plan.ledger)  # kept up to date for units that lose rows
        self.groups: dict[str, Replacement] = {new: group for group in plan.replacements for new in group.new}
        self.held: dict[str, Receipt] = {}
        self.ready: list[Receipt] = []
        self.leaving: list[str] = [old for group in plan.replacements if not group.new for old in sorted(group.old)]
        self.moves = Moves(plan.gone, plan.moved, is_gone)
        self.totals = Totals()
        self.error: BaseException | None = None
        self._queue: queue.Queue[Receipt | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._last_commit = time.monotonic()
        # When the receipt of each unit that is not committed came, by the monotonic clock, the oldest first: also of
        # those that are held, and of those in a commit that is under way.
        self.uncommitted_s: dict[str, float] = {}
        self.commits_s: list[float] = []  # how long each commit took

    def start(self) -> None:
        self._thread.start()

    def offer(self, receipt: Receipt) -> None:
        self.uncommitted_s[receipt.unit_id] = time.monotonic()
        self._queue.put(receipt)

    def close(self) -> None:
        """Commit what is ready and stop. Raises what went wrong, if something did."""
        self._queue.put(None)
        self._thread.join()
        self.uncommitted_s.clear()  # what is left, such as half a group, is for another run
        if self.error is not None:
            raise self.error

    @property
    def conflicts(self) -> int:
        return self.committer.conflicts

    @property
    def pending_rows(self) -> int:
        return sum(r.written for r in self.ready)

    def _run(self) -> None:
        try:
            while True:
                left_s = self._due() - time.monotonic()
                try:
                    receipt = self._queue.get(timeout=max(0.05, left_s))
                except queue.Empty:
                    self._commit()
                    continue
                if receipt is None:
                    self._commit()
                    return
                self._turn(receipt)
        except BaseException as error:  # noqa: BLE001 - raised again in close(), and looked at by the run at every tick
            self.error = error

    def _turn(self, receipt: Receipt) -> None:
        """A receipt came: commit if there is enough, or if it is time."""
        self._take(receipt)
        if time.monotonic() >= self._due() or self.pending_rows >= self.options.every_rows:
            self._commit()

    def _due(self) -> float:
        """When what is ready is committed at the latest, by the monotonic clock. The first rows are at once, whatever
        commit.every_s says: whoever starts a job wants to look at some before leaving it alone."""
        first = self.ready and not self.totals.commits
        return 0.0 if first else self._last_commit + self.options.every_s

    def _take(self, receipt: Receipt) -> None:
        group = self.groups.get(receipt.unit_id)
        if group is None:
            self._is_ready(receipt)
            return
        self.held[receipt.unit_id] = receipt
        if all(unit_id in self.held for unit_id in group.new):
            for unit_id in sorted(group.new):
                self._is_ready(self.held.pop(unit_id))
            if self.ready[-1].outcome != Outcome.ALIAS:  # an alias keeps the old unit's rows
                self.leaving += sorted(group.old)

    def _is_ready(self, receipt: Receipt) -> None:
        self.ready.append(receipt)
        old = self.moves.left_by(receipt)
        if old is not None:
            self.leaving.append(old)
            self.totals.moved_units += 1

    def _commit(self) -> None:
        self._last_commit = time.monotonic()
        if not self.ready and not self.leaving:
            return
        begun_s = time.monotonic()
        receipts, leaving = self.ready, self.leaving
        self.ready, self.leaving = [], []
        moved: dict[str, list[str]] = {}
        if self.deduplicate is not None:
            checked = self.deduplicate(receipts, leaving)
            receipts, moved = checked.receipts, checked.moved
        retired = [replace(self.latest[u], state=LedgerState.RETIRED, table_version=0) for u in leaving]
        smaller = [self._smaller(unit_id, len(ids)) for unit_id, ids in moved.items()]
        entries = [self._entry(r) for r in receipts]
        fragments = [f for r in receipts for f in r.fragments]
        self.committer.commit(
            [*retired, *smaller, *entries],
            fragments,
            reject_fragments=[f for r in receipts for f in r.reject_fragments],
            remove_units=leaving,
            remove_ids=moved,
        )
        self.latest.update({entry.unit_id: entry for entry in smaller})
        self.totals.moved_rows += sum(map(len, moved.values()))
        self._last_commit = time.monotonic()
        self._count(receipts, len(retired))
        self.commits_s.append(self._last_commit - begun_s)
        self.after_commit(len(fragments))

    def _smaller(self, unit_id: str, count: int) -> LedgerEntry:
        """What the ledger says of a unit when `count` of its rows follow their samples elsewhere."""
        was = self.latest[unit_id]
        left = was.present - count
        state = was.state if left else LedgerState.RETIRED
        return replace(was, state=state, written=was.written - count, moved=was.moved + count, table_version=0)

    def _entry(self, receipt: Receipt) -> LedgerEntry:
        unit = self.units[receipt.unit_id]
        return LedgerEntry(
            unit_id=unit.unit_id,
            state=LedgerState.ALIAS if receipt.outcome == Outcome.ALIAS else LedgerState.COMMITTED,
            uri=unit.uri,
            etag=unit.etag,
            start=unit.start,
            end=unit.end,
            format=unit.format,
            run=receipt.run,
            attempt=receipt.attempt,
            seen=receipt.seen,
            written=receipt.written,
            rejected=receipt.num_rejected,
            table_version=0,
            content_hash=receipt.content_hash,
            alias_of=receipt.alias_of,
            left_out=left_out.to_json(receipt.left_out),
        )

    def _count(self, receipts: list[Receipt], retired: int) -> None:
        t = self.totals
        if not t.commits:
            t.first_commit_at = time.time()
        t.commits += 1
        t.retired_units += retired
        for receipt in receipts:
            self.uncommitted_s.pop(receipt.unit_id, None)
            t.units += 1
            t.aliases += receipt.outcome == Outcome.ALIAS
            t.seen += receipt.seen
            t.source_bytes += self.units[receipt.unit_id].size_bytes
            t.rows += receipt.written
            for reason, n in receipt.rejected.items():
                t.rejects[reason] = t.rejects.get(reason, 0) + n
            for column, n in receipt.unread.items():
                t.unread[column] = t.unread.get(column, 0) + n
            t.unread_first = {**receipt.unread_first, **t.unread_first}
            for column, n in receipt.filled.items():
                t.filled[column] = t.filled.get(column, 0) + n
            left_out.merge(t.left_out, receipt.left_out)
