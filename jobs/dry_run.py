"""`clipmill plan`: what embed would do, without doing it."""

import json
from dataclasses import dataclass

from jobs import compat
from jobs.duplicates import units_to_redo
from jobs.ledger import read_ledger
from jobs.plan import make_plan
from jobs.survey import survey
from jobs.tables import Tables
from schemas.config import JobFile


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """`samples` is None where a source does not say how many it holds (a tar does not).

    Hours and dollars come from the rate of the table's last run; without one they are None, not a guess.
    """

    table: str
    exists: bool
    units: int
    new: int
    changed: int
    done: int
    gone: int
    samples: int | None
    bytes: int
    samples_per_s: float | None
    worker_hours: float | None
    dollars: float | None


def dry_run(job: JobFile) -> DryRun:
    """Lists the source and reads the ledger; writes nothing. Raises UserError as embed would."""
    tables = Tables.at(job.table, job.storage)
    rows = tables.open(missing_ok=True)
    if rows is not None:
        compat.check_columns(rows.schema, job)
    units = list(survey(job.source, job.storage, job.limits))
    latest = read_ledger(tables)
    plan = make_plan(units, latest, units_to_redo(tables, latest))
    rate = _last_rate(tables)
    samples = plan.num_samples
    if samples is None and rows is not None and latest:
        samples = _estimate(plan.size_bytes, sum(e.seen for e in latest.values()), tables)
    hours = round(samples / rate / 3600, 3) if samples is not None and rate else None
    price = job.plan.price_per_gpu_hour
    return DryRun(
        table=f"{tables.database}/{tables.name}",
        exists=rows is not None,
        units=len(units),
        new=plan.new,
        changed=plan.changed,
        done=len(plan.done),
        gone=len(plan.gone),
        samples=samples,
        bytes=plan.size_bytes,
        samples_per_s=rate,
        worker_hours=hours,
        dollars=round(hours * price, 2) if hours is not None and price is not None else None,
    )


def _finished(tables: Tables) -> list[dict[str, float]]:
    runs = tables.open("runs", missing_ok=True)
    if runs is None:
        return []
    rows = runs.to_table(columns=["detail", "at"], filter="event = 'finished'").sort_by("at").to_pylist()
    return [json.loads(row["detail"]) for row in rows]


def _last_rate(tables: Tables) -> float | None:
    """Samples per second of one worker in the last run that embedded something."""
    for run in reversed(_finished(tables)):
        if run.get("samples_per_s") and run.get("seen"):
            return run["samples_per_s"] / max(1, run.get("workers", 1))
    return None


def _estimate(size_bytes: int, seen: int, tables: Tables) -> int | None:
    """By the bytes per sample of what is in the table already."""
    read = sum(run.get("source_bytes", 0) for run in _finished(tables))
    return round(size_bytes * seen / read) if read and seen else None
