"""What a run added, replaced and took away, from the ledger's events alone: counts of units and rows, no ids."""

from dataclasses import dataclass
from datetime import UTC

from clipmill.jobs.querying.filters import quote
from clipmill.jobs.table.ledger import from_batch
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """`at`: when, ISO 8601; None where the version is no longer kept. `samples`: seen by its units."""

    version: int
    at: str | None
    samples: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """`came`: rows of places that were not in the table. `changed`: rows of places whose old units left in the same
    commit, the unchanged pictures of such a place included; `replaced`: rows that those old units had. `went`: rows of
    all units that left. `before`, `after`: table versions, None where the run committed nothing."""

    run: str
    units: int = 0
    came: int = 0
    changed: int = 0
    went: int = 0
    replaced: int = 0
    rejected: int = 0
    unchanged_units: int = 0  # another etag, the same content
    before: int | None = None
    after: int | None = None
    unit_ids: tuple[str, ...] = ()
    commits: tuple[Commit, ...] = ()


def read_changes(tables: Tables, run: str, *, since: int | None = None, until: int | None = None) -> Changes:
    """Of one run. A run that is not in the ledger changed nothing. `since`, `until`: all units that left after the one
    version and up to the other count as well, also those that left with nothing coming for them."""
    dataset, mine = tables.open("units", missing_ok=True), tables.id()
    if dataset is None or mine is None:
        return Changes(run=run)
    of_mine = of_table(dataset.schema, mine)
    events = [e for b in dataset.to_batches(filter=f"run = {quote(run)} AND {of_mine}") for e in from_batch(b)]
    added = {e.unit_id: e for e in events if e.state == LedgerState.COMMITTED}
    versions = {e.table_version for e in events if e.state != LedgerState.RETIRED}
    least = min(versions, default=1) if since is None else since + 1
    most = max(versions, default=0) if until is None else until
    within = f"table_version >= {least} AND table_version <= {most} AND {of_mine}"
    left = [
        e
        for b in dataset.to_batches(filter=f"state = 'retired' AND {within}")
        for e in from_batch(b)
        if until is not None or e.table_version in versions
    ]
    places, come = {e.uri for e in left}, {e.uri for e in added.values()}
    return Changes(
        run=run,
        units=len(added),
        came=sum(e.written for e in added.values() if e.uri not in places),
        changed=sum(e.written for e in added.values() if e.uri in places),
        went=sum(e.present for e in left),
        replaced=sum(e.present for e in left if e.uri in come),
        rejected=sum(e.rejected for e in added.values()),
        unchanged_units=sum(e.state == LedgerState.ALIAS for e in events),
        before=min(versions) - 1 if versions else None,
        after=max(versions, default=None),
        unit_ids=tuple(added),
        commits=_commits(tables, list(added.values())),
    )


def _commits(tables: Tables, added: list[LedgerEntry]) -> tuple[Commit, ...]:
    """Of the units that were added, by version. Compaction and indices are versions without samples, and left out."""
    times = {int(v["version"]): v["timestamp"] for v in tables.open().versions()}
    found: dict[int, list[LedgerEntry]] = {}
    for entry in added:
        found.setdefault(entry.table_version, []).append(entry)
    return tuple(
        Commit(
            version=version,
            at=times[version].astimezone(UTC).isoformat(timespec="seconds") if version in times else None,
            samples=sum(e.seen for e in entries),
            rows=sum(e.written for e in entries),
        )
        for version, entries in sorted(found.items())
    )
