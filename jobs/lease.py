"""Who may commit: a lease on the `__runs` table, and the fence that makes a late holder harmless.

The lease is a compare-and-swap on one config key. It decides who tries; it is the fence that keeps the table right.
A fence is an Update of the rows table that names a fragment no table has as removed: two such Updates conflict with
each other and with nothing else. Whoever takes the lease commits one, so a transaction that an earlier holder
prepared before it cannot land after it. The order (fix the version, then read the lease) is the proof; clocks only
decide how long a dead holder is waited for.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.tables import Tables, lance_module
from schemas.errors import LeaseHeld, LeaseLost

KEY = "clipmill.lease"
FENCE_TAG = "clipmill-fence"
FENCE_FRAGMENT = 2**32 - 1  # an id no table reaches
TTL_S = 30.0


def _boot_id() -> str:
    """Names this boot of this machine, so that a process id on it can be trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """The process's start time in clock ticks, so that a reused pid is not taken for the old process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@dataclass(frozen=True, slots=True)
class Holder:
    """The value of the lease key."""

    run: str
    epoch: int
    until: float
    host: str = ""
    pid: int = 0
    boot: str = ""
    started: str = ""
    command: str = ""

    def is_dead(self) -> bool:
        """True only where it can be known: same boot of the same machine, and that process is gone."""
        here = bool(self.boot) and self.boot == _boot_id() and self.host == socket.gethostname()
        return here and _process_start(self.pid) != self.started

    def describe(self) -> str:
        return f"`clipmill {self.command}` (run {self.run}, process {self.pid} on {self.host})"


class Lease:
    """Take, keep and give back the right to commit to one table."""

    def __init__(self, tables: Tables, run: str, command: str, *, ttl_s: float = TTL_S, key: str = KEY) -> None:
        self.tables, self.run, self.command, self.ttl_s, self.key = tables, run, command, ttl_s, key
        self.epoch = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost: Exception | None = None

    def _read(self) -> tuple[Any, Holder | None]:
        dataset = self.tables.open("runs")
        text = dataset.config().get(self.key)
        return dataset, Holder(**json.loads(text)) if text else None

    def _swap(self, dataset: Any, until: float) -> bool:
        """Write our claim if nobody wrote the key since `dataset` was opened."""
        pid = os.getpid()
        mine = Holder(
            self.run,
            self.epoch,
            until,
            socket.gethostname(),
            pid,
            _boot_id(),
            _process_start(pid),
            self.command,
        )
        text = json.dumps({f: getattr(mine, f) for f in Holder.__dataclass_fields__})
        try:
            dataset.update_config({self.key: text})
        except OSError:  # an incompatible transaction: somebody was first
            return False
        return True

    def take(self, *, on_wait: Callable[[str], None] = lambda _: None, poll_s: float = 1.0) -> None:
        """Take the lease, waiting out a holder that may be dead.

        A holder that renews is alive: LeaseHeld. One whose process is gone on this machine is replaced at once,
        one that stops renewing when its lease runs out.
        """
        first: Holder | None = None
        while True:
            dataset, holder = self._read()
            free = holder is None or holder.until <= time.time() or holder.run == self.run or holder.is_dead()
            if free:
                self.epoch = holder.epoch + 1 if holder else 1
                if self._swap(dataset, time.time() + self.ttl_s):
                    return
                continue
            assert holder is not None
            if first is None:
                first = holder
                on_wait(f"the table is held by {holder.describe()}; waiting to see whether it is alive")
            elif (holder.run, holder.until) != (first.run, first.until):
                raise LeaseHeld(
                    f"{self.tables.database}/{self.tables.name} is being written by {holder.describe()}",
                    "wait for it to finish, or stop it; running this command again then resumes",
                )
            time.sleep(poll_s)

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
        """One compare-and-swap that moves the end of the lease."""
        for _ in range(5):
            dataset, holder = self._read()
            if holder is None or (holder.run, holder.epoch) != (self.run, self.epoch):
                self.check()
            if self._swap(dataset, time.time() + self.ttl_s):
                return
        self.check()

    def keep(self) -> None:
        """Renew in a daemon thread, three times per term, until `release` or loss."""

        def loop() -> None:
            while not self._stop.wait(self.ttl_s / 3):
                try:
                    self.renew()
                except LeaseLost as error:
                    self.lost = error
                    return
                except OSError:
                    continue  # the store is away for a moment: the next turn tries again, the fence guards the rows

        self._thread = threading.Thread(target=loop, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; a lost one is left alone."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        if not self.epoch:
            return  # never taken: there may not even be a table
        dataset, holder = self._read()
        if holder is not None and (holder.run, holder.epoch) == (self.run, self.epoch):
            self._swap(dataset, 0.0)

    def fence(self) -> int:
        """Commit the fence that earlier holders' transactions die at, and tag it; returns its version.

        The tag keeps cleanup from removing that version: Lance skips cleaned versions when it looks for conflicts.
        """
        lance = lance_module()
        while True:
            rows = self.tables.open()
            self.check()
            transaction = lance.Transaction(
                rows.version,
                lance.LanceOperation.Update(removed_fragment_ids=[FENCE_FRAGMENT]),
                transaction_properties={"clipmill.epoch": str(self.epoch), "clipmill.run": self.run},
            )
            try:
                rows = lance.LanceDataset.commit(rows, transaction)
                break
            except lance.commit.CommitConflictError:
                continue
        self._tag(rows)
        return int(rows.version)

    def _tag(self, rows: Any) -> None:
        tags = rows.tags.list()
        if FENCE_TAG not in tags:
            rows.tags.create(FENCE_TAG, rows.version)
        elif int(tags[FENCE_TAG]["version"]) < rows.version:
            rows.tags.update(FENCE_TAG, rows.version)
