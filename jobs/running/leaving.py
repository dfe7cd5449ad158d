"""A run that only takes rows out, or enters what a killed one had left: no workers, no model, no Ray."""

import resource
import time

from clipmill.jobs.committing import head_columns, heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import tidy_side_tables
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.collect import Collector, Totals
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.log import RunLog
from clipmill.jobs.running.meter import idle
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table import compat
from clipmill.schemas.unit.left_out import merge


def needs_no_worker(context: RunContext, plan: Plan) -> bool:
    """Nothing is to be read, and the table is of this job's model by name, so that no weights have to be compared."""
    return not plan.todo and compat.has_model_of(context.tables.open().schema, context.job)


def leave_only(context: RunContext) -> Summary | None:
    """Under the lease. None, and nothing but healed, where it turns out that there is something to read."""
    tables, lease = context.tables, context.lease
    compat.check_table(tables.open().schema, context.job, context.vocabulary, None)
    tables.ensure_side_tables()
    lease.fence()
    committer = Committer(tables, lease, hook=context.options.hook)
    latest, healed = heal.heal(tables, committer)
    plan = context.plan(latest)
    if not needs_no_worker(context, plan):
        return None
    log = RunLog.begin(context)
    try:
        collector = Collector(committer, plan, context.job.commit)
        collector.start()
        collector.close()
        head_columns.refresh(tables, lease, context.heads, context.progress.phase)
        idle(context)
        summary = _closed(context, plan, collector.totals, healed)
    except BaseException as error:
        log.failed(error)
        raise
    log.ended(summary)
    return summary


def _closed(context: RunContext, plan: Plan, totals: Totals, healed: int) -> Summary:
    options = context.options
    tidy_side_tables(context.tables, context.lease)
    seen = finish_table(
        context.tables,
        context.lease,
        publish=options.publish,
        say=context.progress.phase,
        keep=options.keep_versions,
    )
    left_out = dict(totals.left_out)
    merge(left_out, context.listing.left_out)
    return Summary(
        run=context.lease.run,
        table=context.table,
        left_out=left_out,
        left_out_listed=context.listing.left_out,
        already_done=len(plan.done),
        replaced_units=totals.retired_units,
        healed_units=healed,
        commits=totals.commits,
        seconds=round(time.monotonic() - context.started_s, 3),
        startup_s=round(time.monotonic() - context.started_s, 3),
        table_version=seen.newest,
        live=seen.live,
        live_rows=seen.live_rows,
        driver_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        note="; ".join(options.readers_notes(seen, publish=options.publish, whole=True)),
    )
