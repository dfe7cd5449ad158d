"""`clipmill plan`: what embed would do, without doing it."""

import json
from dataclasses import dataclass

from jobs import compat
from jobs.duplicates import units_to_redo
from jobs.ledger import read_ledger
from jobs.plan import Plan, make_plan
from jobs.survey import survey
from jobs.tables import Tables
from schemas.config import JobFile

LOOK_AT = 1000


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
    samples_estimated: bool
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
    estimated = samples is None
    if samples is None:
        samples = _estimate(job, plan)
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
        samples_estimated=estimated,
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


def _estimate(job: JobFile, plan: Plan) -> int | None:
    """By reading the first unit to do, or the first thousand samples of it; None where those hold nothing."""
    from schemas.samples import Sample
    from workers.read import read_unit

    unit = plan.todo[0]
    reading = read_unit(unit, job.source, job.storage, job.limits)
    count = end = 0
    for count, item in enumerate(reading, start=1):
        if isinstance(item, Sample) and item.image_offset is not None and item.image_size is not None:
            end = max(end, item.image_offset + item.image_size)
        if count == LOOK_AT:
            break
    else:
        end = unit.size_bytes  # read to its end: no member's position is needed
    if not count or not end:
        return None
    start = int(unit.start) if unit.start.isdecimal() else 0
    return max(len(plan.todo), round(plan.size_bytes * count / max(1, end - start)))
