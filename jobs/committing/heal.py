"""At start: enter what was committed but not written into the ledger, by copying it, never by recounting.

A driver that died between the rows and the ledger left the ledger's entries in the properties of the rows'
transaction. Where those are gone (cleaned up), the rows of the unknown units leave and the units are done again.
"""

import json
from dataclasses import replace
from typing import Any

from clipmill.jobs.committing.commit import UNITS_KEY, Committer
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState


def heal(tables: Tables, committer: Committer) -> tuple[ledger.Ledger, int]:
    """Run under the lease, after the fence. Returns the ledger as it is then, and how many units were entered."""
    latest = ledger.read_ledger(tables)
    rows = tables.open()
    known = max((entry.table_version for entry in latest.values()), default=0)
    found, gap = _unledgered(rows, known)
    if found:
        committer.enter(found)
        latest = ledger.fold([*latest.values(), *found])
    if gap:
        orphans = _orphans(rows, latest)
        if orphans:
            committer.commit([], [], remove_units=orphans)
    return latest, len(found)


def needs_healing(tables: Tables, latest: ledger.Ledger) -> bool:
    """Cheap, read-only: is there a commit of ours after the last one that the ledger knows?"""
    rows = tables.open(missing_ok=True)
    if rows is None:
        return False
    known = max((entry.table_version for entry in latest.values()), default=0)
    found, gap = _unledgered(rows, known)
    return bool(found) or (gap and bool(_orphans(rows, latest)))


def _unledgered(rows: Any, known_version: int) -> tuple[list[LedgerEntry], bool]:
    """Entries in the properties of versions after the known one; True beside them if one could not be read."""
    entries: list[LedgerEntry] = []
    gap = False
    for version in range(known_version + 1, int(rows.version) + 1):
        try:
            properties = rows.read_transaction(version).transaction_properties or {}
        except (OSError, ValueError):  # cleaned up, or written by a client that keeps no transaction
            gap = gap or version > 1
            continue
        for raw in json.loads(properties.get(UNITS_KEY, "[]")):
            entries.append(replace(ledger.to_entry(raw), table_version=version))
    return entries, gap


def _orphans(rows: Any, latest: ledger.Ledger) -> list[str]:
    """Units that have rows but no live entry."""
    present: set[str] = set()
    for batch in rows.scanner(columns=["unit_id"]).to_batches():
        present.update(batch.column("unit_id").dictionary_encode().dictionary.to_pylist())
    alive = {unit_id for unit_id, entry in latest.items() if entry.state == LedgerState.COMMITTED}
    return sorted(present - alive)
