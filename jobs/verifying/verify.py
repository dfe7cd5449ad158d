"""Add up the ledger, and look at the rows: can the table be trusted?

Every check is made from what is stored, never from what a run remembered, so the balance can fail and be seen to.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from clipmill.jobs.table import compat, ledger
from clipmill.jobs.table.proof import proof_of
from clipmill.jobs.table.runs import last_source
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying import tags
from clipmill.jobs.verifying.balance import check_units
from clipmill.jobs.verifying.census import check_source
from clipmill.jobs.verifying.derived import check_derived, missing
from clipmill.jobs.verifying.files import SIDE, check_files, readable
from clipmill.jobs.verifying.ids import check_ids
from clipmill.jobs.verifying.indices import check_indices
from clipmill.jobs.verifying.report import MAX_NAMED, Problems, Report
from clipmill.jobs.verifying.sample import Sample, check_sample
from clipmill.jobs.verifying.tombstones import check_tombstones
from clipmill.jobs.verifying.values import COLUMNS, check_values
from clipmill.schemas.columns import ORIENTATION
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState

__all__ = ["MAX_NAMED", "Report", "verify"]


def verify(
    table: str,
    storage: Storage,
    *,
    sample: int = 0,
    seed: int | None = None,
    source: bool | None = None,
    allow_sources: Sequence[str] = (),
) -> Report:
    """Raises UserError where there is no such table.

    `sample`: also fetch so many rows again and embed them; and tag and score all rows again from the stored vectors.
    Drawn by `seed`, by chance where None.
    `source`: count what the source holds and compare, tars of any size too; None: what is cheap; False: nothing.
    `allow_sources`: places beside the table's own source that may be read, see `jobs.table.originals`.
    """
    tables = Tables.at(table, storage)
    rows = tables.open()
    fingerprint = compat.stored_fingerprint(rows.schema)
    report = Report(table=f"{tables.database}/{tables.name}", version=int(rows.version), rows=rows.count_rows())
    report.proof = proof_of(fingerprint)
    seed = secrets.randbelow(2**32) if seed is None else seed
    say = Problems(report.problems)
    whole = _check_files(tables, rows, say)
    latest: ledger.Ledger | None = None
    alive: dict[str, LedgerEntry] = {}
    with readable("the ledger", say):
        latest = ledger.read_ledger(tables)
        alive = {u: e for u, e in ledger.live(latest).items() if e.state == LedgerState.COMMITTED}
        report.units = len(alive)
        report.seen = sum(e.accounted for e in alive.values())
        report.rejects = sum(e.rejected for e in alive.values())
        report.deleted = sum(e.deleted for e in alive.values())
        check_units(tables, rows, whole, latest, say)
    with readable("the tombstones", say):
        check_tombstones(tables, rows, whole, say)
    lacking: list[str] = []
    with readable("the rows", say):
        check_ids(rows, whole, say)
        lacking = [name for name in COLUMNS if name not in rows.schema.names and name != ORIENTATION]
        if lacking:
            say("columns", f"the table lacks the column {', '.join(lacking)}: what its rows hold is not checked")
        else:
            check_values(rows, whole, alive, last_source(tables), tags.checks(tables, rows), say)
    if lacking:
        report.sample_not_checked = min(sample, report.rows)
        report.not_checked.append("the rows, a sample and the indices: columns of the table are gone")
    elif len(whole) == len(rows.get_fragments()):
        report.missing = missing(rows)
        check_indices(tables, rows, report, seed, say)
        if sample:
            check_sample(tables, rows, fingerprint, report, say, Sample(size=sample, seed=seed, allow=allow_sources))
            check_derived(tables, rows, report, say)
    elif sample:
        report.sample_not_checked = min(sample, report.rows)
        report.not_checked.append("the sample and the indices: files of the table are gone")
    if latest is not None:
        with readable("the ledger", say):
            check_source(tables, latest, report, say, asked=source)
    say.close()
    return report


def _check_files(tables: Tables, rows: Any, say: Problems) -> list[Any]:
    """The fragments of the rows whose files are there; the side tables are looked at too."""
    for part in SIDE:
        if (dataset := tables.open(part, missing_ok=True)) is not None:
            check_files(tables, part, dataset, say)
        else:
            say("files", f"the table {tables.name}__{part} is gone")
    return check_files(tables, "", rows, say)
