"""Puts files of a set's columns in place, fragment by fragment, beside whoever adds, replaces or deletes rows.

A commit is: the rejects of those rows that cannot be filled, then one DataReplacement for all fragments that are ready.
A fragment's rows never change under its id, so a file that was made for one fits as long as it is there; one that is
gone (compacted, or all of its rows left) is done again in the fragment that has its rows now. What is filled is seen in
the table, so a kill loses what was not committed and nothing else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.committing.derived import replacement
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.errors import writing
from clipmill.jobs.table.tables import MAX_CONFLICTS, Tables, lance_module
from clipmill.schemas.columns import SET_COLUMNS, set_column, table_id
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Commit
from clipmill.schemas.unit.receipts import Receipt
from clipmill.workers.fill import SetColumns, written_together
from clipmill.workers.store.storage import retry_transient
from clipmill.workers.write import ColumnFile, leaf_ids

# Named so that a test can stop a driver inside each step and see that the kill landed there.
STEPS = ("before_columns", "after_columns", "before_rejects", "after_rejects", "before_fill", "after_fill")
Hook = Callable[[str], None]


def no_hook(step: str) -> None:
    assert step in STEPS


@dataclass(slots=True)
class Filled:
    """What a fill has made visible. `source_bytes`: read for it, in whatever pieces."""

    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    fragments: int = 0
    again: int = 0  # fragments that were gone when their file was ready
    commits: int = 0
    requests: int = 0
    source_bytes: int = 0
    image_bytes: int = 0


class Filler:
    """Gathers receipts and commits them. One thread; `lease` is the fill lease."""

    def __init__(self, tables: Tables, lease: Lease, slug: str, options: Commit, *, hook: Hook = no_hook) -> None:
        self.tables, self.lease, self.slug, self.options, self.hook = tables, lease, slug, options, hook
        self.columns = [set_column(base, slug) for base in SET_COLUMNS]
        self.table_id = table_id(tables.open().schema)
        self.done = Filled()
        self.commits_s: list[float] = []
        self.uncommitted_s: dict[str, float] = {}
        self.conflicts = 0
        self._ready: list[Receipt] = []
        self._parts: dict[int, list[Receipt]] = {}  # of fragments that several units share
        self._shared: Mapping[int, int] = {}
        self._last_commit = time.monotonic()

    def expect(self, shared: Mapping[int, int]) -> None:
        """Fragments that several units share, and how many: a file is written once for all of them."""
        self._shared = shared

    @property
    def totals(self) -> Filled:
        return self.done

    def offer(self, receipt: Receipt) -> None:
        self.uncommitted_s[receipt.unit_id] = time.monotonic()
        if not receipt.values:
            self._ready.append(receipt)
            return
        parts = self._parts.setdefault(receipt.fragment, [])
        parts.append(receipt)
        if len(parts) >= self._shared.get(receipt.fragment, 1):
            self._ready += self._parts.pop(receipt.fragment)

    @property
    def pending(self) -> int:
        """Rows that are ready and not visible yet."""
        return sum(receipt.written for receipt in self._ready)

    def commit_if_due(self) -> None:
        due = time.monotonic() - self._last_commit >= self.options.every_s
        if self._ready and (due or self.pending >= self.options.every_rows):
            self._commit()

    def commit(self) -> None:
        """All there is, fragments of which a part is missing too. Raises LeaseLost where another fill took over."""
        for parts in self._parts.values():
            self._ready += parts
        self._parts.clear()
        self._commit()

    def _commit(self) -> None:
        receipts, self._ready = self._ready, []
        self._last_commit = begun_s = time.monotonic()
        if not receipts:
            return
        self.hook("before_rejects")
        self.append_rejects([text for one in receipts for text in one.reject_fragments])
        self.hook("after_rejects")
        files = [ColumnFile.from_json(text) for one in receipts for text in one.fragments]
        together, gone = self._written_together(receipts)
        files += together
        landed = self._replace(files) if files else []
        self.hook("after_fill")
        done = self.done
        done.commits += 1
        done.rows += sum(file.rows for file in landed)
        done.fragments += len(landed)
        done.again += len(files) - len(landed) + gone
        for one in receipts:
            self.uncommitted_s.pop(one.unit_id, None)
            done.units += 1
            done.seen += one.seen
            done.image_bytes += one.bytes_read
            done.requests += one.filled.get("requests", 0)
            done.source_bytes += one.filled.get("bytes", 0)
            for reason, count in one.rejected.items():
                done.rejects[reason] = done.rejects.get(reason, 0) + count
        self.commits_s.append(time.monotonic() - begun_s)

    def _written_together(self, receipts: list[Receipt]) -> tuple[list[ColumnFile], int]:
        """(files of the fragments that several units share, how many of those are gone)."""
        values: dict[int, list[bytes]] = {}
        for one in receipts:
            if one.values:
                values.setdefault(one.fragment, []).append(one.values)
        if not values:
            return [], 0
        rows = self.tables.open()
        self._check(rows, [])
        there = {fragment.fragment_id for fragment in rows.get_fragments()} & values.keys()
        files = [
            written_together(SetColumns(rows, fragment, self.slug), values[fragment], self.tables.options)
            for fragment in sorted(there)
        ]
        return files, len(values) - len(there)

    def append_rejects(self, fragments: Sequence[str]) -> None:
        """A reject that is there twice says nothing new."""
        if not fragments:
            return
        from lance.fragment import FragmentMetadata

        lance = lance_module()

        @retry_transient
        def once() -> None:
            self.lease.check()
            rejects = self.tables.open("rejects")
            operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
            with writing(self.tables.uri("rejects")):
                lance.LanceDataset.commit(rejects, lance.Transaction(rejects.version, operation))

        once()

    def _replace(self, files: list[ColumnFile]) -> list[ColumnFile]:
        """Those that are in place now; the others' fragments were gone."""
        lance = lance_module()
        properties = {"clipmill.run": self.lease.run, "clipmill.fill": self.slug}

        @retry_transient
        def once() -> list[ColumnFile]:
            rows = self.tables.open()
            self.hook("before_fill")
            self.lease.check()
            self._check(rows, files)
            there = {fragment.fragment_id for fragment in rows.get_fragments()}
            found = [file for file in files if file.fragment in there]
            if not found:
                return []
            operation = lance.LanceOperation.DataReplacement([replacement(file) for file in found])
            transaction = lance.Transaction(rows.version, operation, transaction_properties=properties)
            with writing(self.tables.rows):
                lance.LanceDataset.commit(rows, transaction)
            return found

        for _ in range(MAX_CONFLICTS):
            try:
                return once()
            except lance.commit.CommitConflictError:
                self.conflicts += 1
        return []  # to be done again, like those whose fragment is gone

    def _check(self, rows: Any, files: list[ColumnFile]) -> None:
        if table_id(rows.schema) != self.table_id:
            raise ClipmillError(
                f"the table {self.tables.database}/{self.tables.name} was dropped and made again during the fill",
                "run the command again",
            )
        missing = [name for name in self.columns if name not in rows.schema.names]
        if missing or any(list(file.fields) != leaf_ids(rows, self.columns) for file in files):
            raise ClipmillError(
                f"the columns of the set '{self.slug}' changed during the fill",
                "it was dropped or promoted; `clipmill status TABLE` shows what is there",
            )
