"""`clipmill delete TABLE`: rows leave because a person asks for it, and do not come back with their source.

Tombstones are written first, and count only once the ledger knows of the delete; then the rows leave in one fenced
commit of the committer, whose properties carry the ledger's new entries, so that a crash between any two steps is
healed like any other: either all of it happened, or nothing. For every unit written = rows that are there + deleted.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.committing.commit import IDS_PER_FILTER, Committer, Hook, ids_filter, no_hook
from clipmill.jobs.committing.lease import Lease, no_fill_beside
from clipmill.jobs.maintaining.maintain import Say, leased
from clipmill.jobs.maintaining.purge import Purged, named_tags, purge, refuse_tags, tags_in_the_way
from clipmill.jobs.querying.damaged import naming_damage
from clipmill.jobs.querying.filters import check_where, filter_errors
from clipmill.jobs.table import ledger, tombstones
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.schemas import columns
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.tombstones import Tombstones

EXAMPLES = 5
MAX_NAMED = 20
_TOLD_BY = ["id", "uri", "unit_id", "image_hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Rows by a predicate, or by their ids; neither: none (a purge of what was deleted before)."""

    where: str | None = None
    ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`purge`: until the bytes are gone from disk. `drop_tags`: tags that would keep them are dropped."""

    dry_run: bool = False
    purge: bool = False
    drop_tags: bool = False
    hook: Hook = no_hook  # called at each step of the commit, for tests that kill there


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What left; with `dry_run`, what would. `examples`: the first few ids. `not_found`: ids that were asked for, are
    no row's, and were not deleted before. `waiting`: rejects `duplicate_id` whose winners these rows were, and which
    do not take their place."""

    table: str
    dry_run: bool = False
    rows: int = 0
    units: int = 0
    waiting: int = 0
    examples: list[str] = field(default_factory=list)
    already_deleted: int = 0
    not_found: int = 0
    not_found_ids: list[str] = field(default_factory=list)
    version: int = 0
    run: str = ""
    notes: list[str] = field(default_factory=list)
    purged: Purged | None = None


Confirm = Callable[[Deleted], None]  # raises where the answer is no


def delete(table: str, storage: Storage, which: Which, options: Options, *, confirm: Confirm, say: Say) -> Deleted:
    """Count, ask, delete, purge. Raises UserError for a filter that cannot be used and for tags that would keep what is
    to be purged, LeaseHeld where somebody else has the table; whatever `confirm` raises."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    victims = _victims(rows, which)
    seen = _described(tables, rows, which, victims, dry_run=options.dry_run)
    if options.dry_run:
        return _with_tags(tables, seen, _marked(rows, victims), options) if options.purge else seen
    if not seen.rows and not options.purge:
        return seen
    confirm(seen)
    with leased(tables, "delete", say) as (lease, _):
        rows = tables.open()
        victims = _marked(rows, _victims(rows, which))
        if not options.purge:
            return _with_readers(tables, _delete(tables, lease, which, victims, options.hook))
        with no_fill_beside(lease, say):  # fragments are rewritten, and those of a fill must stay
            stones = Tombstones.of(tombstones.to_stones(victims))
            dropped = refuse_tags(tables, stones, drop=options.drop_tags)
            done = _delete(tables, lease, which, victims, options.hook)
            done = replace(done, purged=purge(tables, lease, drop=dropped, say=say))
        return _with_readers(tables, done)


def take_back(table: str, storage: Storage, which: Which, *, dry_run: bool, confirm: Confirm, say: Say) -> Deleted:
    """Remove tombstones, by their ids or a predicate on their columns: the next `clipmill embed` reads the units again
    and brings back what their source still has."""
    tables = Tables.at(table, storage)
    tables.open()
    where = which.where
    if where is not None:
        check_where(where, columns.DELETED.names)
        wheres = [where]
    else:
        ids = which.ids or ()
        wheres = [ids_filter(ids[n : n + IDS_PER_FILTER]) for n in range(0, len(ids), IDS_PER_FILTER)]
    with filter_errors(where):
        found = [b for one in wheres for b in tombstones.counted(tables, one)]
    names = [name for batch in found for name in batch.column("id").to_pylist()]
    missing = [name for name in which.ids or () if name not in set(names)]
    seen = Deleted(
        table=f"{tables.database}/{tables.name}",
        dry_run=dry_run,
        rows=len(names),
        already_deleted=len(names),
        examples=names[:EXAMPLES],
        not_found=len(missing),
        not_found_ids=missing[:MAX_NAMED],
    )
    if dry_run or not names:
        return seen
    confirm(seen)
    with leased(tables, "delete", say) as (lease, _):
        count = sum(tombstones.take_back(tables, one) for one in wheres)
        _log(tables, lease, "taken_back", {"tombstones": count})
    note = "the next `clipmill embed JOB` reads their units again, and brings back what the source still has"
    version = int(tables.open().version)
    return replace(seen, already_deleted=0, rows=count, version=version, run=lease.run, notes=[note])


def _victims(rows: Any, which: Which) -> pa.Table:
    """id, uri, unit_id and image_hash of the rows that are meant."""
    batches: list[pa.RecordBatch] = []
    if which.where is not None:
        check_where(which.where, rows.schema.names)
        with naming_damage(rows, which.where), filter_errors(which.where):
            batches += rows.scanner(columns=_TOLD_BY, filter=which.where).to_batches()
    ids = which.ids or ()
    for start in range(0, len(ids), IDS_PER_FILTER):
        where = ids_filter(ids[start : start + IDS_PER_FILTER])
        with naming_damage(rows, "id"):
            batches += rows.scanner(columns=_TOLD_BY, filter=where).to_batches()
    schema = pa.schema([rows.schema.field(name).remove_metadata() for name in _TOLD_BY])
    return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema=schema)


def _described(tables: Tables, rows: Any, which: Which, victims: pa.Table, *, dry_run: bool = False) -> Deleted:
    found = victims["id"].to_pylist()
    missing = set(which.ids or ()) - set(found)
    before = tombstones.deleted_among(tables, missing)
    unknown = [name for name in which.ids or () if name in missing - before]
    return Deleted(
        table=f"{tables.database}/{tables.name}",
        dry_run=dry_run,
        rows=len(found),
        units=pc.count_distinct(victims["unit_id"]).as_py(),
        waiting=sum(1 for _ in _losers(tables, set(found))),
        examples=found[:EXAMPLES],
        already_deleted=len(before),
        not_found=len(unknown),
        not_found_ids=unknown[:MAX_NAMED],
        version=int(rows.version),
    )


def _delete(tables: Tables, lease: Lease, which: Which, victims: pa.Table, hook: Hook) -> Deleted:
    """Tombstones, then the rows and the ledger in the committer's order."""
    rows = tables.open()
    seen = _described(tables, rows, which, victims)
    if not seen.rows:
        return seen
    latest = ledger.read_ledger(tables)
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for name, unit_id in zip(victims["id"].to_pylist(), victims["unit_id"].to_pylist(), strict=True):
        ids[unit_id].append(name)
    if strange := [unit_id for unit_id in ids if unit_id not in latest]:
        raise ClipmillError(
            f"{len(ids[strange[0]])} of the rows are of unit {strange[0]}, which the ledger does not have",
            "`clipmill verify TABLE` says what else is wrong; nothing was deleted",
        )
    tombstones.append(tables, _stone_rows(tables, lease.run, victims))
    entries = [
        replace(latest[u], deleted=latest[u].deleted + len(some), deleted_by=lease.run, table_version=0)
        for u, some in ids.items()
    ]
    version = Committer(tables, lease, hook=hook).commit(entries, [], remove_ids=ids)
    _log(tables, lease, "deleted", {"rows": seen.rows, "units": seen.units, "version": version})
    return replace(seen, version=version, run=lease.run)


def _marked(rows: Any, victims: pa.Table) -> pa.Table:
    """With the column that a tombstone has beside theirs."""
    return victims.append_column("everywhere", _alone(rows, victims["image_hash"]))


def _with_tags(tables: Tables, seen: Deleted, victims: pa.Table, options: Options) -> Deleted:
    """What a purge would say of tags; nothing is dropped."""
    found = tags_in_the_way(tables, Tombstones.of(tombstones.to_stones(victims)))
    if not found:
        return seen
    would = "they would be dropped" if options.drop_tags else "it would be refused without --drop-tags"
    note = f"tags keep versions that hold what is to be purged: {named_tags(found)}; {would}"
    return replace(seen, notes=[*seen.notes, note])


def _alone(rows: Any, hashes: pa.ChunkedArray) -> pa.Array:
    """For each hash whether all rows that have it are among these. One pass over the column."""
    if not len(hashes):
        return pa.array([], pa.bool_())
    mine = Counter(hashes.to_pylist())
    wanted = pc.unique(hashes)
    there: Counter[str] = Counter()
    for batch in rows.scanner(columns=["image_hash"]).to_batches():
        column = batch.column(0)
        for pair in column.filter(pc.is_in(column, value_set=wanted)).value_counts().to_pylist():
            there[pair["values"]] += pair["counts"]
    return pa.array([there[one] == mine[one] for one in hashes.to_pylist()], pa.bool_())


def _stone_rows(tables: Tables, run: str, victims: pa.Table) -> pa.Table:
    """Of the rows, and of the rejects that wait for their ids."""
    waiting = list(_losers(tables, set(victims["id"].to_pylist())))
    names = ["id", "uri", "unit_id"]
    both = pa.concat_tables(
        [
            victims,
            pa.table(
                {name: pa.array([one[name] for one in waiting], pa.string()) for name in names}
                | {
                    "image_hash": pa.array([""] * len(waiting), pa.string()),
                    "everywhere": pa.array([False] * len(waiting), pa.bool_()),
                }
            ).select([*_TOLD_BY, "everywhere"]),
        ],
        promote_options="permissive",
    )
    n = len(both)
    now = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
    for name, value in (("run", run), ("at", now), ("table_id", tables.id())):
        both = both.append_column(name, pa.repeat(value, n))
    return both


def _losers(tables: Tables, ids: set[str]) -> Iterator[dict[str, Any]]:
    """Rejects `duplicate_id` of these ids."""
    if not ids:
        return
    for batch in counted_rejects(tables, ["id", "uri", "unit_id"], "reason = 'duplicate_id'"):
        yield from (row for row in batch.to_pylist() if row["id"] in ids)


def _with_readers(tables: Tables, done: Deleted) -> Deleted:
    seen = readers(tables.open())
    if not done.rows or not seen.is_behind:
        return done
    return replace(done, notes=[*done.notes, seen.behind(f"{tables.database}/{tables.name}")])


def _log(tables: Tables, lease: Lease, event: str, detail: dict[str, Any]) -> None:
    """Counts, and nothing of what was deleted."""
    tables.log_run(lease.run, lease.command, event, json.dumps(detail), table_id=tables.id())
