"""Add up the ledger, and look at the rows: can the table be trusted?

Every check is made from what is stored, never from what a run remembered, so the balance can fail and be seen to.
"""

from jobs import compat, ledger
from jobs.tables import Tables
from jobs.verifying.balance import check_units
from jobs.verifying.report import MAX_NAMED, Problems, Report
from jobs.verifying.rows import check_ids, check_vectors
from jobs.verifying.sample import check_sample
from schemas.config import Storage
from schemas.receipts import LedgerState

__all__ = ["MAX_NAMED", "Report", "verify"]


def verify(table: str, storage: Storage, *, sample: int = 0, seed: int = 0) -> Report:
    """Raises UserError where there is no such table."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    fingerprint = compat.stored_fingerprint(rows.schema)
    latest = ledger.read_ledger(tables)
    alive = {u: e for u, e in ledger.live(latest).items() if e.state == LedgerState.COMMITTED}
    report = Report(table=f"{tables.database}/{tables.name}", version=int(rows.version), units=len(alive))
    report.rows = rows.count_rows()
    report.seen = sum(e.seen for e in alive.values())
    report.rejects = sum(e.rejected for e in alive.values())
    say = Problems(report.problems)
    check_units(tables, rows, alive, say)
    check_ids(rows, say)
    check_vectors(rows, say)
    if sample:
        check_sample(tables, rows, fingerprint, report, say, (sample, seed))
    say.close()
    return report
