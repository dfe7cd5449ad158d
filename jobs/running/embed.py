"""The main job: survey → plan → lease → heal → dispatch → commit → index.

Running it again resumes, or says in seconds that there is nothing to do and writes nothing.
"""

import time
from dataclasses import replace

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.duplicates import units_to_redo
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.committing.moves import gone_from
from clipmill.jobs.planning.jobfile import refuse_unread_keys
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.planning.survey import survey
from clipmill.jobs.planning.trial import refuse_to_shrink
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.options import Options, new_run_id
from clipmill.jobs.running.run import Run
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table import compat, memory
from clipmill.jobs.table.errors import check_folder
from clipmill.jobs.table.ledger import Ledger, read_ledger
from clipmill.jobs.table.ledger import left_out as ledger_left_out
from clipmill.jobs.table.readers import Readers, readers
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.terminal.progress import Progress
from clipmill.schemas.config import JobFile
from clipmill.schemas.errors import UserError
from clipmill.schemas.left_out import LeftOut, merge
from clipmill.schemas.units import WorkUnit
from clipmill.workers.naming import names as model_names


def embed(job: JobFile, *, address: str | None = None, publish: bool = False, resume: str = "") -> Summary:
    """Bring the table up to date with the source. Raises UserError, LeaseHeld, LeaseLost; see `Summary`."""
    return run(job, Options(address=address, publish=publish, resume=resume))


def run(job: JobFile, options: Options) -> Summary:
    started = time.monotonic()
    refuse_unread_keys(job)
    memory.use_little()
    tables = Tables.at(job.table, job.storage)
    model_names.check(job.model.spec(), here=False)
    vocabulary = compat.job_vocabulary(job)
    with Progress() as progress:
        rows = tables.open(missing_ok=True)
        if rows is not None:
            compat.check_table(rows.schema, job, vocabulary, None)  # a mistake is told before the listing
        units, left_out = _survey(job, progress)
        latest = read_ledger(tables)
        plan = make_plan(units, latest, units_to_redo(tables, latest, units, gone_from(job.storage)))
        refuse_to_shrink(plan, latest, job.source.limit)
        if rows is not None and _nothing_to_do(job, plan, latest, tables):
            idle = _idle(tables, options, plan, progress, started)
            all_left_out = ledger_left_out(latest)
            merge(all_left_out, left_out)
            return replace(idle, left_out=all_left_out, left_out_listed=left_out)
        model_names.check(job.model.spec(), here=options.address is None)
        is_new = not tables.exists("runs")
        if is_new:
            from clipmill.workers.store.storage import check_store

            progress.phase("checking that the store commits safely")
            check_folder(tables.database)
            check_store(tables.database, job.storage)
        lease = Lease(tables, new_run_id(), options.command, ttl_s=options.lease_ttl_s)
        if not is_new:
            lease.take(on_wait=progress.say)
            lease.keep(progress.say)
        try:
            return Run(job, options, tables, lease, progress, vocabulary, started).run(units, left_out)
        finally:
            lease.release(progress.say)


def _survey(job: JobFile, progress: Progress) -> tuple[list[WorkUnit], LeftOut]:
    """Every unit, and what the listing shows beside them."""
    progress.phase(f"listing {', '.join(job.source.uri)}")
    left_out: LeftOut = {}
    units = list(survey(job.source, job.storage, job.limits, left_out=left_out))
    if not units:
        raise UserError(
            f"nothing to embed at {', '.join(job.source.uri)}", "check source.uri; a prefix of images ends in /"
        )
    return units, left_out


def _nothing_to_do(job: JobFile, plan: Plan, latest: Ledger, tables: Tables) -> bool:
    """Everything is in the ledger, made with this model, and no commit waits to be entered."""
    if plan.todo or plan.replacements or heal.needs_healing(tables, latest):
        return False
    return compat.has_model_of(tables.open().schema, job)


def _idle(tables: Tables, options: Options, plan: Plan, progress: Progress, started: float) -> Summary:
    """Nothing to embed; publishes where that was asked for and readers do not see the newest version yet."""
    note = f"nothing to do: all {len(plan.done)} units are in the table"
    seen = readers(tables.open())
    publish = options.publish and seen.live != seen.newest
    if publish:
        seen = _publish(tables, options, progress)
    notes = [note, *seen.notes(publish=publish, whole=True, hint=options.publish_hint())]
    return Summary(
        run="",
        table=f"{tables.database}/{tables.name}",
        already_done=len(plan.done),
        seconds=round(time.monotonic() - started, 3),
        table_version=seen.newest,
        live=seen.live,
        live_rows=seen.live_rows,
        note="; ".join(notes),
    )


def _publish(tables: Tables, options: Options, progress: Progress) -> Readers:
    lease = Lease(tables, new_run_id(), options.command, ttl_s=options.lease_ttl_s)
    lease.take(on_wait=progress.say)
    lease.keep(progress.say)
    try:
        return finish_table(tables, lease, publish=True, say=progress.phase)
    finally:
        lease.release(progress.say)
