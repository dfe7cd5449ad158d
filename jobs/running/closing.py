"""After the last unit: side tables tidied, the table finished as far as it is whole, and the account of the run."""

import resource
import time

from clipmill.jobs.committing.compaction import tidy_side_tables
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.opening import Opened
from clipmill.jobs.running.summary import Summary, failed_units, rate
from clipmill.jobs.running.work import Work
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.left_out import merge


def close(context: RunContext, force: Workforce, opened: Opened, work: Work) -> Summary:
    """Publishes, where that was asked for, only what is whole."""
    options, progress = context.options, context.progress
    tidy_side_tables(context.tables, context.lease)
    interrupted = work.drained and work.left > 0
    whole = not work.failed and work.left <= 0
    seen = finish_table(
        context.tables,
        context.lease,
        publish=options.publish and whole,
        say=progress.phase,
        keep=options.keep_versions,
    )
    notes = [f"stopped early; {counted(work.left, 'unit is', 'units are')} left"] if interrupted else []
    notes += options.readers_notes(seen, publish=options.publish, whole=whole)
    totals, dispatcher, expected = work.totals, work.dispatcher, opened.estimate
    left_out = dict(totals.left_out)
    merge(left_out, context.listing.left_out)
    worked_s = work.until_s - work.since_s
    return Summary(
        run=context.lease.run,
        table=context.table,
        units=totals.units,
        seen=totals.seen,
        rows=totals.rows,
        rejects=dict(sorted(totals.rejects.items())),
        unread=dict(sorted(totals.unread.items())),
        unread_first=dict(sorted(totals.unread_first.items())),
        failed_units=failed_units(work.failed),
        left_out=left_out,
        left_out_listed=context.listing.left_out,
        filled={name: totals.filled.get(name, 0) for name in _asked_for(context)},
        already_done=len(work.plan.done),
        aliases=totals.aliases,
        replaced_units=totals.retired_units - totals.moved_units,
        moved_units=totals.moved_units,
        moved_rows=totals.moved_rows,
        healed_units=opened.healed,
        seconds=round(time.monotonic() - context.started_s, 3),
        startup_s=round(work.since_s - context.started_s, 3),
        samples_per_s=rate(totals.seen, worked_s),
        limited_by=work.clock.limited_by(dispatcher.worker_s),
        loads={stage: round(share, 3) for stage, share in work.clock.loads(dispatcher.worker_s).items()},
        commits=totals.commits,
        first_rows_s=_since_start(context, totals.first_commit_at) if totals.first_commit_at else None,
        table_version=seen.newest,
        live=seen.live,
        live_rows=seen.live_rows,
        workers=dispatcher.most_at_once,
        worker_s=round(dispatcher.worker_s, 3),
        device=force.facts.device,
        estimated_samples_per_s=round(expected.samples_per_s * dispatcher.most_at_once, 1) if expected else None,
        estimate_basis=expected.basis if expected else "",
        source_bytes=totals.source_bytes,
        worker_restarts=dispatcher.restarts,
        attempts_failed=dispatcher.attempts.used,
        attempts_lost=dispatcher.attempts.lost,
        peak_worker_bytes=work.clock.peak_rss_bytes,
        driver_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        drained=work.drained,
        interrupted=interrupted,
        resume=options.resume if interrupted else "",
        note="; ".join(notes),
    )


def _asked_for(context: RunContext) -> list[str]:
    """Columns that the job file wants filled, and that may match nothing."""
    source = context.job.source
    caption, tags = source.caption is not None, context.vocabulary is not None
    heads = [head.name for head in context.heads]
    return [*(["caption"] if caption else []), *(["tags"] if tags else []), *heads, *source.keep]


def _since_start(context: RunContext, at: float) -> float:
    """Seconds from the command's begin to a wall clock's time."""
    return round(at - (time.time() - (time.monotonic() - context.started_s)), 3)
