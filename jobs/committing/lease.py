"""Who may commit: a lease on the `__runs` table, and the fence that makes a late holder harmless.

The lease is a compare-and-swap on one config key. It decides who tries; it is the fence that keeps the table right.
A fence is an Update of the rows table that names a fragment no table has as removed: two such Updates conflict with
each other and with nothing else. Whoever takes the lease commits one, so a transaction that an earlier holder
prepared before it cannot land after it. The order (fix the version, then read the lease) is the proof; how long a
silent holder is waited for is measured by the waiter's own monotonic clock (`committing.holder` says what is trusted).
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.committing.holder import TTL_S, Holder, boot_id, pid_namespace, process_start
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.readers import FENCE_TAG, tags_of
from clipmill.jobs.table.tables import SIDE_TABLES, Tables, lance_module
from clipmill.schemas.errors import ClipmillError, LeaseHeld, LeaseLost
from clipmill.schemas.text.secrets import one_line
from clipmill.workers.store.storage import retry_transient

KEY = "clipmill.lease"
FILL_KEY = "clipmill.fill"  # of a long column fill, beside the first: its fragments must stay where they are
FENCE_FRAGMENT = 2**32 - 1  # an id no table reaches
RENEWALS = 3  # per term


def _silent(text: str) -> None:
    pass


def fill_holder(tables: Tables) -> Holder | None:
    """Who may be filling a column of this table now; None where nobody took the fill lease, it was given back, or its
    process is known to be gone. A look, no promise: whoever must not run beside a fill takes the fill lease itself
    (`no_fill_beside`), which waits out a holder that may be dead and raises LeaseHeld for a live one."""
    runs = tables.open("runs", missing_ok=True)
    holder = None if runs is None else Holder.parse(runs.config().get(FILL_KEY))
    return None if holder is None or holder.is_released() or holder.is_dead() else holder


@contextmanager
def no_fill_beside(lease: "Lease", say: Callable[[str], None] = _silent) -> Iterator[None]:
    """Holds the fill lease beside `lease`, so that no fill begins meanwhile. LeaseHeld where one is under way."""
    fill = Lease(lease.tables, lease.run, lease.command, ttl_s=lease.ttl_s, key=FILL_KEY)
    fill.take(on_wait=say)
    fill.keep(say)
    try:
        yield
    finally:
        fill.release(say)


class Lease:
    """Take, keep and give back the right to commit to one table."""

    def __init__(self, tables: Tables, run: str, command: str, *, ttl_s: float = TTL_S, key: str = KEY) -> None:
        self.tables, self.run, self.command, self.ttl_s, self.key = tables, run, command, ttl_s, key
        self.epoch = 0
        self.beat = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost: Exception | None = None

    def _read(self, *, or_make: bool = False) -> tuple[Any, Holder | None]:
        dataset = self.tables.open("runs", missing_ok=or_make)
        if dataset is None:  # somebody removed what lies beside the rows
            dataset = self.tables.create("runs", SIDE_TABLES["runs"])
        return dataset, Holder.parse(dataset.config().get(self.key))

    def _swap(self, dataset: Any, *, released: bool = False) -> bool:
        """Write our claim if nobody wrote the key since `dataset` was opened. Raises what the store says, if it does
        not take it: only a conflict means that somebody was first."""
        pid = os.getpid()
        self.beat += 1
        mine = Holder(
            run=self.run,
            epoch=self.epoch,
            beat=self.beat,
            ttl_s=self.ttl_s,
            until=0.0 if released else None,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            pid=pid,
            pid_ns=pid_namespace(),
            boot=boot_id(),
            started=process_start(pid),
            command=self.command,
        )
        try:
            with writing(self.tables.uri("runs")):
                dataset.update_config({self.key: mine.text()})
        except OSError as error:
            if not is_conflict(error):
                raise
            return False
        return True

    def take(self, *, on_wait: Callable[[str], None] = _silent, poll_s: float = 1.0) -> None:
        """Take the lease, waiting out a holder that may be dead.

        One that gave it back, or whose process is known to be gone, is replaced at once; another when its value has
        stayed the same for a term of its own by this process's clock. One whose value changes is alive: LeaseHeld.
        UserError where the table cannot be written to.
        """
        watched: Holder | None = None
        since_s = 0.0
        while True:
            dataset, holder = self._read(or_make=True)
            if holder is None or self._may_take(holder, watched, since_s):
                self.epoch = holder.epoch + 1 if holder else 1
                if self._swap(dataset):
                    return
                continue
            if watched is None:
                watched, since_s = holder, time.monotonic()
                on_wait(
                    f"the table is held by {holder.describe()}; waiting up to {holder.ttl_s:.0f} s to see whether it "
                    "is alive"
                )
            elif holder != watched:
                raise LeaseHeld(
                    f"{self.tables.database}/{self.tables.name} is being written by {holder.describe()}",
                    "wait for it to finish, or stop it; running this command again then resumes",
                )
            time.sleep(poll_s)

    def _may_take(self, holder: Holder, watched: Holder | None, since_s: float) -> bool:
        if holder.is_released() or holder.run == self.run or holder.is_dead():
            return True
        return holder == watched and time.monotonic() - since_s >= holder.ttl_s

    def check(self) -> None:
        """Raise LeaseLost unless the lease is still ours. Read after the version of the rows was fixed."""
        if self.lost:
            raise self.lost
        _, holder = self._read()
        if holder is None or (holder.run, holder.epoch) != (self.run, self.epoch):
            raise LeaseLost(
                f"run {self.run} lost the table's lease" + (f" to {holder.describe()}" if holder else ""),
                "nothing of it was written after that; run the command again to resume",
            )

    def renew(self) -> None:
        """One compare-and-swap that shows that we are alive. Raises LeaseLost, or what the store says."""
        for _ in range(5):
            dataset, holder = self._read()
            if holder is None or (holder.run, holder.epoch) != (self.run, self.epoch):
                self.check()
            if self._stop.is_set() or self._swap(dataset):
                return
        self.check()

    def keep(self, say: Callable[[str], None] = _silent) -> None:
        """Renew in a daemon thread, three times per term, until `release` or loss. Whatever else goes wrong is told
        once and tried again: that thread must not die, and the rows are safe behind the fence."""

        def loop() -> None:
            failing = False
            wait_s = self.ttl_s / RENEWALS
            while not self._stop.wait(wait_s / RENEWALS if failing else wait_s):
                try:
                    self.renew()
                except LeaseLost as error:
                    self.lost = error
                    return
                except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may do better
                    if not failing:
                        say(f"the lease on the table could not be renewed, trying on: {one_line(error)}")
                    failing = True
                else:
                    if failing:
                        say("the lease on the table is renewed again")
                    failing = False

        self._thread = threading.Thread(target=loop, name="lease", daemon=True)
        self._thread.start()

    def release(self, say: Callable[[str], None] = _silent) -> None:
        """Give the lease back; a lost one is left alone. A store that does not answer is told, not raised: it would
        hide how the run ended, and the lease runs out by itself."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=self.ttl_s)
        if not self.epoch:
            return  # never taken: there may not even be a table
        try:
            dataset, holder = self._read()
            if holder is not None and (holder.run, holder.epoch) == (self.run, self.epoch):
                self._swap(dataset, released=True)
        except (OSError, ValueError, ClipmillError) as error:
            say(f"the lease on the table could not be given back, it runs out by itself: {one_line(error)}")

    @retry_transient
    def fence(self, part: str = "") -> int:
        """Commit the fence that earlier holders' transactions die at, and tag it; returns its version. `part`: of the
        table beside the rows whose history is to be cut; else of the rows.

        The tag keeps cleanup from removing that version: Lance skips cleaned versions when it looks for conflicts. A
        store that is busy for a moment is asked again, though it may have done what it did not say: a fence more stops
        nobody but those before it.
        """
        lance = lance_module()
        while True:
            rows = self.tables.open(part)
            self.check()
            transaction = lance.Transaction(
                rows.version,
                lance.LanceOperation.Update(removed_fragment_ids=[FENCE_FRAGMENT]),
                transaction_properties={"clipmill.epoch": str(self.epoch), "clipmill.run": self.run},
            )
            try:
                with writing(self.tables.uri(part)):
                    rows = lance.LanceDataset.commit(rows, transaction)
                break
            except lance.commit.CommitConflictError:
                continue
        self._tag(rows)
        return int(rows.version)

    def _tag(self, rows: Any) -> None:
        tags = tags_of(rows)
        if FENCE_TAG not in tags:
            rows.tags.create(FENCE_TAG, rows.version)
        elif int(tags[FENCE_TAG]["version"]) < rows.version:
            rows.tags.update(FENCE_TAG, rows.version)
