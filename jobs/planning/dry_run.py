"""`clipmill plan`: what embed would do, without doing it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from clipmill.jobs.committing.moves import count_gone
from clipmill.jobs.planning.arithmetic import model_dim
from clipmill.jobs.planning.column_names import said_of_columns
from clipmill.jobs.planning.estimate import DECODE_CORE_S, Estimate, Worker, estimate
from clipmill.jobs.planning.listing import list_source, plan_for
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.planning.turned import turned
from clipmill.jobs.table import compat, heads
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.runs import last_source
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.unit.left_out import hint_for
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.naming import names as model_names
from clipmill.workers.read.fields import Wanted

LOOK_AT = 1000


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """`samples` is None where a source does not say how many it holds (a tar does not).

    `moved`: units whose content seems to be that of units whose place is empty now; their rows follow, and they are not
    counted as `gone`. `gone`: units that are no longer listed, whose rows stay, and slices of which no sample is left.
    `left_out`: what the listing shows and no unit holds, by ending; `left_out_hint` what would read it.
    Members of tars and zips are counted when those are read.

    Rate, hours and dollars are an estimate: `basis` says where it comes from, `limited_by` which stage sets it. Where
    there is nothing to go by they are None. `turned`: a sentence, where pictures at the beginning of the first unit to
    do lie turned and only what is written beside them knows. `columns`: what columns known by name are taken for, and
    which could be read. `worker_hours`: of GPUs, or of nodes where the job asks for none; dollars
    only of the former.
    """

    table: str
    exists: bool
    units: int
    new: int
    changed: int
    moved: int
    done: int
    gone: int
    samples: int | None
    samples_estimated: bool
    bytes: int
    left_out: dict[str, int]
    samples_per_s: float | None
    limited_by: str | None
    basis: str | None
    worker_hours: float | None
    dollars: float | None
    turned: str | None = None
    columns: str | None = None
    left_out_hint: str | None = None
    known: int = 0


def dry_run(
    job: JobFile,
    *,
    price_per_gpu_hour: float | None = None,
    measure: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> DryRun:
    """Lists the source and reads the ledger; writes nothing. Raises UserError as embed would.

    `measure`: embed so many samples here for the estimate, which loads the model. The price goes before the job's.
    `say` hears what takes long.
    """
    if price_per_gpu_hour is not None:
        job = job.model_copy(update={"plan": job.plan.model_copy(update={"price_per_gpu_hour": price_per_gpu_hour})})
    model_names.check(job.model.spec(), here=False)
    tables = Tables.at(job.table, job.storage)
    rows = tables.open(missing_ok=True)
    its_heads = heads.job_heads(job)
    if rows is not None:
        _check_table(rows.schema, job)
        heads.check_table(rows.schema, its_heads)
        nulls = compat.left_null(rows.schema, job, last_source(tables))
        for said in (*nulls, *heads.left_null(rows.schema, its_heads)):
            say(said)
    else:
        heads.check_new(its_heads, job.model, model_dim(job.model.name))
    listing = list_source(job, say=say)
    plan = plan_for(job, tables, listing, read_ledger(tables))
    moved = count_gone(plan.moves.values(), job.storage)
    samples = plan.num_samples
    estimated = samples is None
    if samples is None:
        samples = _estimate(job, plan)
    found = _rate(job, tables, listing.units, measure)
    known = min(sum(plan.again.values()), samples or 0)
    hours = _hours(job, samples, known, found) if samples is not None and found else None
    return DryRun(
        table=f"{tables.database}/{tables.name}",
        exists=rows is not None,
        units=len(listing.units),
        new=plan.new + len(plan.moves) - moved,
        changed=plan.changed,
        moved=moved,
        done=len(plan.done),
        gone=len(plan.gone) - moved + plan.left,
        samples=samples,
        samples_estimated=estimated,
        bytes=plan.size_bytes,
        left_out=listing.left_out,
        samples_per_s=found.samples_per_s if found else None,
        limited_by=found.limited_by if found else None,
        basis=found.basis if found else None,
        worker_hours=hours,
        dollars=_dollars(hours, found, job.plan.price_per_gpu_hour),
        known=known,
        left_out_hint=hint_for(listing.left_out) or None,
        columns=said_of_columns(listing.units[0], job.source, job.storage) if listing.units else None,
        turned=_turned(job, plan, listing.left_out),
    )


def _turned(job: JobFile, plan: Plan, left_out: Mapping[str, int]) -> str | None:
    """Pictures of a folder are read for it only where it holds .json files."""
    if not plan.todo or (job.source.format == "files" and not left_out.get("json") and not Wanted.of(job.source).json):
        return None
    return turned(plan.todo[0], job.source, job.storage, job.limits)


def _check_table(schema: pa.Schema, job: JobFile) -> None:
    """As embed does. A model under another name than the table's is loaded for that: it may have the same weights."""
    mine = None
    if not compat.has_model_of(schema, job):
        from clipmill.workers.load import load_engine

        mine = load_engine(job.model.spec()).fingerprint
    compat.check_table(schema, job, compat.job_vocabulary(job), mine)


def _rate(job: JobFile, tables: Tables, units: Sequence[WorkUnit], measure: int) -> Estimate | None:
    if measure and units:
        from clipmill.jobs.planning.measure import from_sample

        return from_sample(job, units, measure)
    return estimate(job, tables, None)


def _hours(job: JobFile, samples: int, known: int, found: Estimate) -> float:
    """Of one worker. What is known is read and decoded as the rest is, in the time that decoding takes."""
    known_per_s = max(found.samples_per_s, Worker.of(job).cores / DECODE_CORE_S)
    return round(((samples - known) / found.samples_per_s + known / known_per_s) / 3600, 3)


def _dollars(hours: float | None, found: Estimate | None, price_per_gpu_hour: float | None) -> float | None:
    if hours is None or found is None or not found.gpus or price_per_gpu_hour is None:
        return None
    return round(hours * found.gpus * price_per_gpu_hour, 2)


def _estimate(job: JobFile, plan: Plan) -> int | None:
    """By reading the first unit to do, or the first thousand samples of it; None where those hold nothing, or may not
    be read, which `embed` will say of that unit."""
    try:
        return _from_first(job, plan)
    except (PermissionError, SourceChanged):
        return None


def _from_first(job: JobFile, plan: Plan) -> int | None:
    from clipmill.schemas.unit.samples import Sample
    from clipmill.workers.read import read_unit

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
