"""The ledger added up against the rows and the rejects that are there."""

from collections import Counter
from typing import Any

from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.report import Problems
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.receipts import LedgerState
from clipmill.schemas.unit.rejects import Reason


def check_units(tables: Tables, rows: Any, fragments: list[Any], latest: ledger.Ledger, say: Problems) -> None:
    """Every committed unit of the ledger `latest`: seen = written + rejected + moved, written = present + deleted by
    a person, rejected = rejects entered."""
    present: Counter[str] = Counter()
    for batch in rows.scanner(columns=["unit_id"], fragments=fragments).to_batches():
        for pair in batch.column("unit_id").value_counts().to_pylist():
            present[pair["values"]] += pair["counts"]
    rejected: Counter[str] = Counter()
    for batch in counted_rejects(tables, ["unit_id", "reason"], latest=latest):
        for reason in set(batch.column("reason").unique().to_pylist()) - set(Reason):
            say("reasons", f"rejects of reason {reason!r}, which is none of the closed list")
        for pair in batch.column("unit_id").value_counts().to_pylist():
            rejected[pair["values"]] += pair["counts"]
    alive = {u: e for u, e in ledger.live(latest).items() if e.state == LedgerState.COMMITTED}
    for unit_id, entry in alive.items():
        name = f"unit {unit_id} ({entry.uri})"
        if entry.accounted != entry.written + entry.rejected:
            moved = f" + moved {entry.moved}" if entry.moved else ""
            say("balance", f"{name}: seen {entry.seen} != written {entry.written} + rejected {entry.rejected}{moved}")
        if present[unit_id] != entry.present:
            less = f" less {entry.deleted} deleted" if entry.deleted else ""
            written = counted(entry.written, "row")
            say("rows", f"{name}: the ledger says {written}{less}, the table has {present[unit_id]}")
        if rejected[unit_id] != entry.rejected:
            said, named = counted(entry.rejected, "reject"), counted(rejected[unit_id], "is", "are")
            say("rejects", f"{name}: the ledger says {said}, {named} named")
    for unit_id in sorted(set(present) - set(alive)):
        say("unknown units", f"{counted(present[unit_id], 'row')} of unit {unit_id}, which the ledger does not have")
