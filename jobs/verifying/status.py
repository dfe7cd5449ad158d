"""What is in a table and how fresh it is; and the samples that are not in it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipmill.jobs.table import compat, ledger
from clipmill.jobs.table.heads import told, without_scores
from clipmill.jobs.table.proof import proof_of
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.runs import NIGHT, events, events_of
from clipmill.jobs.table.sets import Coverage, all_coverage, failed_rows
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import all_vocabularies
from clipmill.schemas.columns import heads_of, of_table, table_id
from clipmill.schemas.errors import BeingMade
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.left_out import LeftOut, merge
from clipmill.schemas.unit.receipts import LedgerState

LAST_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Status:
    """`balanced` compares the ledger with the rows: seen = rows + rejects + deleted; `deleted` are rows
    that a person had deleted, those kept out since are rejects.

    `proof`: of vectors that were imported, whether they were shown to be of the model, and how; else empty.
    `left_out`: what the source holds and no reader takes, by ending. `readers` says which version is seen by who asks
    for none: `live`, where that tag is. `sets`: those of other models beside the one in use, and how far they are
    filled: rows = filled + failed + left, and by head of the set how many rows with its vector have no score yet.
    `heads`: columns of scores, each with its head, the model of the vectors it
    scored, and `left`, the rows that have a vector and no score. `vocabularies`: of each column of tags the vocabulary,
    its hash, the thresholds that were calibrated, `left` likewise, and a `note` where the hash is not that of its file
    or of the job's, or a set's is not that of the tags in use. `last_night`: how the last one ended
    that did something or was refused, and why; a refused one brings no run, so the runs do not show it.
    """

    table: str
    rows: int
    units: int
    seen: int
    deleted: int
    rejects: dict[str, int]
    left_out: dict[str, int]
    balanced: bool
    model: str
    pretrained: str
    dim: int
    precision: str
    vocabulary: str | None
    proof: str
    version: int
    live: int | None
    live_rows: int | None
    readers: str
    fragments: int
    indices: list[str]
    held_by: str | None
    sets: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    vocabularies: list[dict[str, Any]] = field(default_factory=list)
    last_night: str | None = None
    last_runs: list[dict[str, Any]] = field(default_factory=list)


def status(table: str, storage: Storage) -> Status:
    """Raises UserError where there is no such table, or it is not clipmill's; BeingMade where a run is making it."""
    tables = Tables.at(table, storage)
    rows = tables.open(missing_ok=True)
    if rows is None and (holder := _holder(tables)):
        raise BeingMade(f"the table {table} is not there yet: it is being made by {holder}", "look again in a moment")
    rows = tables.open() if rows is None else rows
    fingerprint = compat.stored_fingerprint(rows.schema)
    latest = ledger.read_ledger(tables)
    alive = [e for e in ledger.live(latest).values() if e.state == LedgerState.COMMITTED]
    count = rows.count_rows()
    seen = sum(e.accounted for e in alive)
    rejected = sum(e.rejected for e in alive)
    deleted = sum(e.deleted for e in alive)
    seen_by_readers = readers(rows)
    return Status(
        table=f"{tables.database}/{tables.name}",
        rows=count,
        units=len(alive),
        seen=seen,
        deleted=deleted,
        rejects=dict(sorted(count_rejects(tables).items())),
        left_out=left_out(tables, latest, table_id(rows.schema)),
        balanced=seen == count + rejected + deleted,
        model=fingerprint.model,
        pretrained=fingerprint.pretrained,
        dim=fingerprint.dim,
        precision=fingerprint.provenance.get("precision", ""),
        vocabulary=(compat.stored_vocabulary(rows.schema) or {}).get("name"),
        proof=proof_of(fingerprint),
        version=int(rows.version),
        live=seen_by_readers.live,
        live_rows=seen_by_readers.live_rows,
        readers=seen_by_readers.behind(f"{tables.database}/{tables.name}") or seen_by_readers.describe(),
        fragments=len(rows.get_fragments()),
        indices=[f"{index.name} ({index.index_type})" for index in rows.describe_indices()],
        held_by=_holder(tables),
        sets=[_set(rows, one) for one in all_coverage(tables, rows)],
        heads=[_head(rows, name, about) for name, about in told(rows.schema).items()],
        vocabularies=all_vocabularies(tables, rows),
        last_night=_last_night(tables),
        last_runs=_last_runs(tables, table_id(rows.schema)),
    )


def _set(rows: Any, one: Coverage) -> dict[str, Any]:
    said = {"set": one.slug, "model": f"{one.model} {one.pretrained}".strip(), "dim": one.dim, "rows": one.rows}
    said |= {"filled": one.filled, "failed": one.failed, "left": one.left, "rejects": one.rejects}
    late = without_scores(rows, one.slug)
    return {**said, "heads": {head: late.get(head, 0) for head in heads_of(rows.schema, one.slug)}}


def _head(rows: Any, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    vector = str(about.get("vector", "vector"))
    lacking = f"{name} IS NULL AND {vector} IS NOT NULL" if vector in rows.schema.names else f"{name} IS NULL"
    model = " ".join(str(about[key]) for key in ("model", "pretrained") if about.get(key))
    said = {"head": name, "hash": about.get("hash", ""), "file": about.get("file", ""), "model": model}
    return {**said, "left": int(rows.count_rows(lacking))}


def left_out(tables: Tables, latest: ledger.Ledger, table_id: str) -> LeftOut:
    """Within the live units, and in the source's listing when the last run looked."""
    found = ledger.left_out(latest)
    runs = tables.open("runs", missing_ok=True)
    if runs is not None:
        where = f"event IN ('finished', 'drained') AND {of_table(runs.schema, table_id)}"
        ended = events(runs, ["detail"], where)
        if ended:
            merge(found, json.loads(ended[-1]["detail"]).get("left_out_listed", {}))
    return found


def _holder(tables: Tables) -> str | None:
    from clipmill.jobs.committing.holder import Holder
    from clipmill.jobs.committing.lease import KEY

    runs = tables.open("runs", missing_ok=True)
    text = runs.config().get(KEY) if runs is not None else None
    holder = Holder.parse(text)
    if holder is None or holder.is_released() or holder.is_dead():
        return None
    return holder.describe() + (f", last renewed at {holder.at} by its clock" if holder.at else "")


def _last_runs(tables: Tables, table_id: str) -> list[dict[str, Any]]:
    runs = tables.open("runs", missing_ok=True)
    if runs is None:
        return []
    events_told = ["started", "finished", "drained", "failed"]
    events_told += [f"{kind}-{event}" for kind in ("fill", "import") for event in ("started", "finished", "failed")]
    where = "event IN (" + ", ".join(f"'{event}'" for event in events_told) + ")"
    where += f" AND {of_table(runs.schema, table_id)}"
    told = events(runs, ["run", "command", "event", "at"], where)
    latest = {event["run"]: event for event in told}  # the last word of each run
    return [{**event, "at": event["at"].isoformat(timespec="seconds")} for event in list(latest.values())[-LAST_RUNS:]]


def _last_night(tables: Tables) -> str | None:
    told = events_of(tables, ["detail"], f"event = '{NIGHT}'")
    if not told:
        return None
    night = json.loads(told[-1]["detail"])
    refused = [f"gate {gate['name']}: {gate['sentence']}" for gate in night.get("gates", ()) if not gate["passed"]]
    why = "; ".join(refused) or night.get("error", "")
    return f"{night['status']}, begun at {night['at']}" + (f": {why}" if why else "")


def counted_rejects(
    tables: Tables, columns: list[str], where: str | None = None, *, latest: ledger.Ledger | None = None
) -> Iterator[pa.RecordBatch]:
    """Rejects whose (unit, run, attempt) is in the ledger (`latest`; None: as it is now): the only ones that count."""
    dataset = tables.open("rejects", missing_ok=True)
    if dataset is None:
        return
    alive = ledger.live(ledger.read_ledger(tables) if latest is None else latest).values()
    valid = {(e.unit_id, e.run, e.attempt) for e in alive if e.state == LedgerState.COMMITTED}
    key = ["unit_id", "run", "attempt"]
    scanner = dataset.scanner(columns=sorted({*columns, *key}), filter=where, batch_size=4096)
    for batch in scanner.to_batches():
        keys = zip(*(batch.column(name).to_pylist() for name in key), strict=True)
        mask = pa.array([one in valid for one in keys], pa.bool_())
        yield batch.filter(mask).select(columns)


def count_rejects(tables: Tables) -> dict[str, int]:
    counts: dict[str, int] = {}
    for batch in counted_rejects(tables, ["reason"]):
        for pair in batch.column("reason").value_counts().to_pylist():
            counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
    return counts


def rejects(
    table: str, storage: Storage, *, reason: str | None = None, limit: int = 100, slug: str | None = None
) -> pa.Table:
    """id, uri, reason, detail of up to `limit` rejects; with `slug` of rows that could not get that set's vector.
    Raises UserError for a word that is no reason, and where there is no such set."""
    from clipmill.schemas.errors import UserError
    from clipmill.schemas.unit.rejects import Reason

    if reason is not None and reason not in {str(r) for r in Reason}:
        raise UserError(f"'{reason}' is no reason for a reject", f"one of {', '.join(sorted(Reason))}")
    tables = Tables.at(table, storage)
    rows = tables.open()
    found: list[pa.RecordBatch] = []
    left = limit
    names = ["reason", "id", "uri", "detail"]
    if slug is not None:
        failed = [one for one in failed_rows(tables, rows, slug) if reason in (None, one["reason"])]
        return pa.Table.from_pylist(failed[:limit], pa.schema([(name, pa.string()) for name in names]))
    tables.open("rejects")  # missing, nobody may take it for a table without rejects
    for batch in counted_rejects(tables, names, f"reason = '{reason}'" if reason else None):
        found.append(batch.slice(0, left))
        left -= found[-1].num_rows
        if left <= 0:
            break
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    return pa.Table.from_batches(found) if found else empty
