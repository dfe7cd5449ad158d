"""The ledger: what happened to every unit, as events that are never changed; maintenance cuts those nobody needs.

The newest `table_version` of a unit wins, so an event that is written twice, or late by a holder that slept, changes
nothing as long as what came after it is there (`Committer.enter`). Whoever reads it gets the same answer whatever the
order in which they came.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

import pyarrow as pa

from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables
from clipmill.schemas import columns
from clipmill.schemas.columns import TABLE_ID, of_table
from clipmill.schemas.unit.left_out import LeftOut, from_json, merge
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState

Ledger = dict[str, LedgerEntry]

_FIELDS = tuple(one.name for one in fields(LedgerEntry))

_DEFAULTS = {one.name: one.default for one in fields(LedgerEntry) if one.default is not MISSING}

RANK = {LedgerState.RETIRED: 0, LedgerState.ALIAS: 1, LedgerState.COMMITTED: 2}


def fold(events: Iterable[LedgerEntry]) -> Ledger:
    """The latest event of each unit, retired ones included."""
    latest: Ledger = {}
    for event in events:
        seen = latest.get(event.unit_id)
        if seen is None or _order(event) >= _order(seen):
            latest[event.unit_id] = event
    return latest


def _order(entry: LedgerEntry) -> tuple[int, int]:
    return entry.table_version, RANK[entry.state]


def live(latest: Ledger) -> Ledger:
    """Units whose rows are in the table, and aliases of such units."""
    return {unit_id: e for unit_id, e in latest.items() if e.state != LedgerState.RETIRED and _is_live(e, latest)}


def _is_live(entry: LedgerEntry, latest: Ledger) -> bool:
    if entry.state != LedgerState.ALIAS:
        return True
    target = latest.get(entry.alias_of)
    return target is not None and target.state == LedgerState.COMMITTED


def left_out(latest: Ledger) -> LeftOut:
    """What the live units hold and no reader takes, by ending."""
    found: LeftOut = {}
    for entry in live(latest).values():
        if entry.left_out not in ("", "{}"):
            merge(found, from_json(entry.left_out))
    return found


def read_ledger(tables: Tables, *, up_to: int | None = None) -> Ledger:
    """Fold what `__units` says of the rows table that is there now, or said when it was at version `up_to`; empty where
    either is missing. About 1 kB of memory per unit."""
    dataset, table_id = tables.open("units", missing_ok=True), tables.id()
    if dataset is None or table_id is None:
        return {}
    where = of_table(dataset.schema, table_id) + (f" AND table_version <= {up_to}" if up_to is not None else "")
    batches = dataset.to_batches(filter=where)
    with memory.no_cycles():
        return fold(entry for batch in batches for entry in from_batch(batch))


def from_batch(batch: pa.RecordBatch) -> list[LedgerEntry]:
    """As `to_entry` of each row, by whole columns: a night with nothing new spends much of its time here."""
    names = [name for name in _FIELDS if name in batch.schema.names]
    read = [_values(name, batch.column(name)) for name in names]
    return [LedgerEntry(**dict(zip(names, row, strict=True))) for row in zip(*read, strict=True)]


def _values(name: str, column: pa.Array) -> list[Any]:
    """Equal texts, of which most columns have few, become one object."""
    if not pa.types.is_string(column.type):
        values: list[Any] = column.to_pylist() if column.null_count else column.to_numpy().tolist()
    else:
        encoded = column.dictionary_encode(null_encoding="encode")
        texts = encoded.dictionary.to_pylist()
        texts = [LedgerState(text) for text in texts] if name == "state" else texts
        values = [texts[i] for i in encoded.indices.to_numpy().tolist()]
    if column.null_count and name in _DEFAULTS:
        values = [_DEFAULTS[name] if value is None else value for value in values]
    return values


def to_entry(row: Mapping[str, Any]) -> LedgerEntry:
    """What an older or a newer clipmill wrote: a field that is missing or null has its default, an unknown one goes."""
    known = {name: row[name] for name in _FIELDS if row.get(name) is not None}
    return LedgerEntry(**{**known, "state": LedgerState(row["state"])})


def to_table(entries: Iterable[LedgerEntry], table_id: str | None) -> pa.Table:
    """As `__units` has them. `table_id`: of the rows table."""
    rows = [{**asdict(entry), TABLE_ID.name: table_id} for entry in entries]
    return pa.Table.from_pylist(rows, schema=columns.UNITS)


def append(tables: Tables, entries: Iterable[LedgerEntry], *, table_id: str | None = None) -> None:
    """For whoever has the tables to himself; a run enters by its committer, which a later holder's fence stops.
    `table_id`: of the rows table; None reads it there."""
    table = to_table(entries, tables.id() if table_id is None else table_id)
    if table.num_rows:
        tables.append("units", table)
