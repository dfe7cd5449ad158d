"""The ledger: what happened to every unit, as events that are only ever appended.

The newest `table_version` of a unit wins, so an event that is written twice, or late by a holder that slept, changes
nothing. Whoever reads it gets the same answer whatever the order of the appends.
"""

from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa

from jobs.tables import Tables
from schemas import columns
from schemas.receipts import LedgerEntry, LedgerState

Ledger = dict[str, LedgerEntry]

_RANK = {LedgerState.RETIRED: 0, LedgerState.ALIAS: 1, LedgerState.COMMITTED: 2}


def fold(events: Iterable[LedgerEntry]) -> Ledger:
    """The latest event of each unit, retired ones included."""
    latest: Ledger = {}
    for event in events:
        seen = latest.get(event.unit_id)
        if seen is None or _order(event) >= _order(seen):
            latest[event.unit_id] = event
    return latest


def _order(entry: LedgerEntry) -> tuple[int, int]:
    return entry.table_version, _RANK[entry.state]


def live(latest: Ledger) -> Ledger:
    """Units whose rows are in the table, and aliases of such units."""
    return {unit_id: e for unit_id, e in latest.items() if e.state != LedgerState.RETIRED and _is_live(e, latest)}


def _is_live(entry: LedgerEntry, latest: Ledger) -> bool:
    if entry.state != LedgerState.ALIAS:
        return True
    target = latest.get(entry.alias_of)
    return target is not None and target.state == LedgerState.COMMITTED


def read_ledger(tables: Tables) -> Ledger:
    """Fold the whole `__units` table; empty where there is none. About 1 kB of memory per unit."""
    dataset = tables.open("units", missing_ok=True)
    if dataset is None:
        return {}
    return fold(entry for batch in dataset.to_batches() for entry in from_batch(batch))


def from_batch(batch: pa.RecordBatch) -> list[LedgerEntry]:
    return [LedgerEntry(**{**row, "state": LedgerState(row["state"])}) for row in batch.to_pylist()]


def append(tables: Tables, entries: Iterable[LedgerEntry]) -> None:
    rows = [asdict(entry) for entry in entries]
    if rows:
        tables.append("units", pa.Table.from_pylist(rows, schema=columns.UNITS))
