"""The one committer: rows enter and leave the table here, and nowhere else.

A commit is, in this order: rejects (which count only once their unit is in the ledger), then rows in one fenced
transaction whose properties say what the ledger will say, then the ledger. A crash between any two steps is healed
at the next start from those properties (`jobs.committing.heal`).
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipmill.jobs.committing.lease import FENCE_FRAGMENT, Lease
from clipmill.jobs.table import ledger
from clipmill.jobs.table.errors import writing
from clipmill.jobs.table.tables import MAX_CONFLICTS, Tables, lance_module
from clipmill.schemas.columns import table_id
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.unit.receipts import LedgerEntry
from clipmill.workers.store.storage import retry_transient

UNITS_KEY = "clipmill.units"
IDS_PER_FILTER = 5_000

# Named so that a test can stop a driver inside each step and see that the kill landed there.
STEPS = ("before_rejects", "after_rejects", "before_rows", "after_rows", "after_ledger")
Hook = Callable[[str], None]


def no_hook(step: str) -> None:
    assert step in STEPS


class Committer:
    """Fenced commits under one lease. Not thread-safe: one thread commits."""

    def __init__(self, tables: Tables, lease: Lease, *, hook: Hook = no_hook) -> None:
        self.tables, self.lease, self.hook = tables, lease, hook
        self.conflicts = 0
        rows = tables.open()
        self.table_id = table_id(rows.schema)
        self._field_ids = sorted(_leaf_field_ids(rows.lance_schema.fields()))

    def commit(
        self,
        entries: Sequence[LedgerEntry],
        fragments: Sequence[str],
        *,
        reject_fragments: Sequence[str] = (),
        remove_units: Sequence[str] = (),
        remove_ids: Mapping[str, Sequence[str]] | None = None,
    ) -> int:
        """Make `fragments` visible, drop the rows of `remove_units`, enter `entries`; returns the table version.

        `remove_ids`: unit -> ids of rows that leave it, for rows of the same ids among the new.
        `entries` come with table_version 0. Raises LeaseLost where another run took over: nothing landed then.
        """
        self.hook("before_rejects")
        if reject_fragments:
            self._append_rejects(reject_fragments)
        self.hook("after_rejects")
        leaving = Leaving(tuple(remove_units), dict(remove_ids or {}))
        version = self._commit_rows(entries, [self._checked(text) for text in fragments], leaving)
        self.hook("after_rows")
        self.enter([replace(entry, table_version=version) for entry in entries])
        self.hook("after_ledger")
        return version

    def enter(self, entries: Sequence[LedgerEntry]) -> None:
        """Into the ledger. An event that is there twice changes nothing, and one that comes late neither, as long as
        what came after it is there: so a holder that slept until history was cut (`jobs.maintaining.history`) must not
        land, and dies at the fence of whoever cut it. Raises LeaseLost then."""
        from lance.fragment import write_fragments

        if not entries:
            return
        lance = lance_module()
        table = ledger.to_table(entries, self.table_id)

        @retry_transient
        def once() -> None:
            units = self.tables.open("units")  # first fix the version,
            self.lease.check()  # then read the lease
            with writing(self.tables.uri("units")):
                fragments = write_fragments(
                    table, units, mode="append", schema=table.schema, storage_options=self.tables.options or None
                )
                operation = lance.LanceOperation.Update(
                    removed_fragment_ids=[FENCE_FRAGMENT], new_fragments=list(fragments)
                )
                lance.LanceDataset.commit(units, lance.Transaction(units.version, operation))

        for _ in range(MAX_CONFLICTS):
            try:
                once()
            except lance.commit.CommitConflictError:
                continue
            return
        raise _always_in_conflict()

    def _checked(self, text: str) -> Any:
        """Refuse fragments that were not written against this run's field ids (columns added in between, say)."""
        from lance.fragment import FragmentMetadata

        fragment = FragmentMetadata.from_json(text)
        ids = sorted(field for file in fragment.files for field in file.fields)
        if ids != self._field_ids:
            raise ClipmillError(
                f"a worker wrote fields {ids}, the table has {self._field_ids}: its columns changed during the run",
                "run the command again",
            )
        return fragment

    def _append_rejects(self, fragments: Sequence[str]) -> None:
        from lance.fragment import FragmentMetadata

        lance = lance_module()
        begun = int(self.tables.open("rejects").version)
        operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
        transaction = lance.Transaction(begun, operation)

        @retry_transient
        def once() -> None:
            rejects = self.tables.open("rejects")
            if not _landed(rejects, begun, lambda found: found.uuid == transaction.uuid):
                with writing(self.tables.uri("rejects")):
                    lance.LanceDataset.commit(rejects, transaction)

        once()

    def _commit_rows(self, entries: Sequence[LedgerEntry], fragments: list[Any], leaving: "Leaving") -> int:
        lance = lance_module()
        properties = {
            "clipmill.run": self.lease.run,
            "clipmill.epoch": str(self.lease.epoch),
            UNITS_KEY: json.dumps([asdict(entry) for entry in entries]),
        }
        begun = 0

        def is_this(found: Any) -> bool:
            return properties.items() <= (found.transaction_properties or {}).items()

        @retry_transient
        def once() -> int:
            nonlocal begun
            rows = self.tables.open()  # first fix the version,
            begun = begun or int(rows.version)
            if landed := _landed(rows, begun, is_this):
                return landed
            self.hook("before_rows")
            self.lease.check()  # then read the lease: a later takeover fences after that version
            if table_id(rows.schema) != self.table_id:
                raise ClipmillError(
                    f"the table {self.tables.database}/{self.tables.name} was dropped and made again during the run",
                    "run the command again",
                )
            removed, updated = _without_rows(rows, leaving)
            operation = lance.LanceOperation.Update(
                removed_fragment_ids=[FENCE_FRAGMENT, *removed],
                updated_fragments=updated,
                new_fragments=fragments,
            )
            transaction = lance.Transaction(rows.version, operation, transaction_properties=properties)
            with writing(self.tables.rows):
                return int(lance.LanceDataset.commit(rows, transaction).version)

        for _ in range(MAX_CONFLICTS):
            try:
                return once()
            except lance.commit.CommitConflictError:
                self.conflicts += 1
        raise _always_in_conflict()


def _always_in_conflict() -> ClipmillError:
    return ClipmillError(
        f"{MAX_CONFLICTS} commits in a row met a conflicting one",
        "something else rewrites this table all the time; stop it and run the command again",
    )


def _landed(dataset: Any, begun: int, is_this: Callable[[Any], bool]) -> int:
    """The version after `begun` that our transaction made; 0 where there is none. A store may do what it was asked and
    fail to say so; a second try would then do it twice."""
    for version in range(begun + 1, int(dataset.version) + 1):
        with contextlib.suppress(OSError, ValueError):  # written by a client that keeps no transactions
            if is_this(dataset.read_transaction(version)):
                return version
    return 0


def units_filter(unit_ids: Sequence[str]) -> str:
    """Unit ids are hex digits of our own making, so quoting is enough."""
    assert all(unit_id.isalnum() for unit_id in unit_ids)
    return "unit_id IN (" + ", ".join(f"'{unit_id}'" for unit_id in unit_ids) + ")"


def ids_filter(names: Iterable[str]) -> str:
    """Ids are data of anybody's making."""
    return "id IN (" + ", ".join("'" + name.replace("'", "''") + "'" for name in names) + ")"


@dataclass(frozen=True, slots=True)
class Leaving:
    """The rows of these units, and these rows of others: unit -> ids."""

    units: tuple[str, ...]
    ids: dict[str, Sequence[str]]

    def ids_filters(self) -> Iterator[str]:
        """Each short enough for a planner."""
        names = [(unit, name) for unit, some in self.ids.items() for name in some]
        for start in range(0, len(names), IDS_PER_FILTER):
            some = names[start : start + IDS_PER_FILTER]
            yield f"{units_filter(sorted({unit for unit, _ in some}))} AND {ids_filter(name for _, name in some)}"


def _without_rows(rows: Any, leaving: Leaving) -> tuple[list[int], list[Any]]:
    """(ids of fragments that vanish, metadata of fragments that lose rows) when these rows leave."""
    removed: list[int] = []
    updated: list[Any] = []
    by_unit = units_filter(leaving.units) if leaving.units else ""
    touched: defaultdict[int, list[str]] = defaultdict(list)  # fragment -> the ids it loses beside its units' rows
    for where in filter(None, (by_unit, *leaving.ids_filters())):
        columns = [] if where is by_unit else ["id"]
        scanner = rows.scanner(columns=columns, filter=where, with_row_address=True)
        for batch in scanner.to_batches():
            places = batch.column("_rowaddr").to_numpy() >> 32  # a fragment id is the upper half of a row address
            if columns:
                for place, name in zip(places.tolist(), batch.column("id").to_pylist(), strict=True):
                    touched[place].append(name)
            else:
                touched.update({place: [] for place in set(places.tolist()) - touched.keys()})
    for fragment_id, names in sorted(touched.items()):
        fragment = rows.get_fragment(fragment_id)
        if len(names) == fragment.count_rows():
            removed.append(fragment_id)
            continue
        rest = fragment.delete(" OR ".join(filter(None, (by_unit, ids_filter(names) if names else ""))))
        if rest is None:
            removed.append(fragment_id)
        else:
            updated.append(rest)
    return removed, updated


def _leaf_field_ids(fields: Sequence[Any]) -> list[int]:
    """The ids that a data file lists: those of fields with values of their own."""
    ids: list[int] = []
    for one in fields:
        children = one.children()
        ids.extend(_leaf_field_ids(children) if children else [int(one.id())])
    return ids
