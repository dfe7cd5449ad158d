"""The main job: survey → plan → lease → heal → dispatch → commit → index.

Running it again resumes, or says in seconds that there is nothing to do and writes nothing.
"""

import time

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.planning.arithmetic import model_dim
from clipmill.jobs.planning.listing import Listing, list_source
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.options import Options, new_run_id
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table import compat, heads, memory
from clipmill.jobs.table.errors import check_folder
from clipmill.jobs.table.ledger import left_out as ledger_left_out
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.runs import last_source
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.progress import Progress
from clipmill.schemas.installed import require
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.words import all_of, counted
from clipmill.schemas.unit.left_out import merge
from clipmill.workers.naming import names as model_names


def embed(job: JobFile, *, address: str | None = None, publish: bool = False, resume: str = "") -> Summary:
    """Bring the table up to date with the source. Raises UserError, LeaseHeld, LeaseLost; see `Summary`."""
    return run(job, Options(address=address, publish=publish, resume=resume))


def run(job: JobFile, options: Options) -> Summary:
    """As `embed`, for whoever wants more of a say in how: nights, tests and benchmarks."""
    started_s = time.monotonic()
    require("a job", "ray", "rich")
    memory.use_little()
    tables = Tables.at(job.table, job.storage)
    model_names.check(job.model.spec(), here=False)
    vocabulary = compat.job_vocabulary(job)
    its_heads = heads.job_heads(job)
    with Progress() as progress:
        rows = tables.open(missing_ok=True)
        if rows is not None:
            compat.check_table(rows.schema, job, vocabulary, None)  # a mistake is told before the listing
            vocabulary = vocabulary and compat.with_thresholds(vocabulary, rows.schema)
            heads.check_table(rows.schema, its_heads)
            nulls = (*compat.left_null(rows.schema, job, last_source(tables)), *heads.left_null(rows.schema, its_heads))
            for said in (*heads.unsure(its_heads), *nulls):
                progress.say(said)
        else:
            heads.check_new(its_heads, job.model, model_dim(job.model.name))
        context = RunContext(
            job=job,
            options=options,
            tables=tables,
            lease=Lease(tables, new_run_id(), options.command, ttl_s=options.lease_ttl_s),
            progress=progress,
            vocabulary=vocabulary,
            listing=_listing(job, progress),
            started_s=started_s,
            heads=its_heads,
        )
        lines.about(context.lease.run)
        plan = context.plan(read_ledger(tables))
        if rows is not None and _nothing_to_do(context, plan):
            return _idle(context, plan)
        from clipmill.jobs.running.leaving import leave_only, needs_no_worker  # of no use to a run with nothing to do
        from clipmill.jobs.running.run import run_units

        model_names.check(job.model.spec(), here=options.address is None)
        if tables.exists("runs"):
            context.take_lease()
        else:  # the run takes it: until the model is loaded nothing is written
            _check_store(context)
        try:
            left = leave_only(context) if rows is not None and needs_no_worker(context, plan) else None
            return left or run_units(context, plan.todo)
        finally:
            context.lease.release(progress.say)


def _listing(job: JobFile, progress: Progress) -> Listing:
    progress.phase(f"listing {', '.join(job.source.uri)}")
    return list_source(job, say=progress.say)


def _check_store(context: RunContext) -> None:
    from clipmill.workers.store.storage import check_store

    context.progress.phase("checking that the store commits safely")
    check_folder(context.tables.database)
    check_store(context.tables.database, context.tables.storage)


def _nothing_to_do(context: RunContext, plan: Plan) -> bool:
    """Everything is in the ledger, made with this model, and no commit waits to be entered."""
    if plan.todo or plan.replacements or heal.needs_healing(context.tables, plan.ledger):
        return False
    return compat.has_model_of(context.tables.open().schema, context.job)


def _refresh_heads(context: RunContext) -> dict[str, int]:
    """Of a table to which nothing is added: a head that is new or changed, from the vectors that are there."""
    if not context.heads:
        return {}
    from clipmill.jobs.committing import head_columns

    if not head_columns.behind(context.tables.open(), context.heads):
        return {}
    context.take_lease()
    context.tables.ensure_side_tables()
    context.lease.fence()
    return head_columns.refresh(context.tables, context.lease, context.heads, context.progress.phase)


def _idle(context: RunContext, plan: Plan) -> Summary:
    """Nothing to embed; publishes where that was asked for and readers do not see the newest version yet."""
    if context.options.metrics is not None:
        from clipmill.jobs.running.meter import idle

        idle(context)
    options, left_out = context.options, ledger_left_out(plan.ledger)
    merge(left_out, context.listing.left_out)
    try:
        scored = _refresh_heads(context)
        seen = readers(context.tables.open())
        publish = options.publish and seen.live != seen.newest
        if publish:
            if not context.lease.epoch:
                context.take_lease()
            seen = finish_table(context.tables, context.lease, publish=True, say=context.progress.phase)
    finally:
        context.lease.release(context.progress.say)
    notes = [f"nothing to do: {all_of(len(plan.done), 'unit')} in the table"]
    notes += [f"{counted(rows, 'row')} scored by the head '{name}'" for name, rows in scored.items()]
    notes += options.readers_notes(seen, publish=publish, whole=True)
    return Summary(
        run="",
        table=context.table,
        left_out=left_out,
        left_out_listed=context.listing.left_out,
        already_done=len(plan.done),
        seconds=round(time.monotonic() - context.started_s, 3),
        table_version=seen.newest,
        live=seen.live,
        live_rows=seen.live_rows,
        note="; ".join(notes),
    )
