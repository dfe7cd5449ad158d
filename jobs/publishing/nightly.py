"""`clipmill nightly JOB`: sync what changed → fill the sets beside → maintain → gates → publish. Safe to run twice,
safe to kill.

Every step is whole in itself: killed after the sync, the next night finds nothing to embed, a newest version that
readers do not see, and goes on with the gates. A night that finds nothing new and nothing unpublished commits nothing.
"""

import contextlib
import time
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from clipmill.jobs.committing.commit import Hook
from clipmill.jobs.maintaining.maintain import Say, leased, maintain
from clipmill.jobs.maintaining.needed import index_is_behind
from clipmill.jobs.migrating.beside import fill_sets
from clipmill.jobs.migrating.beside_derived import fill_columns
from clipmill.jobs.publishing.arrived import arrived, is_unlisted, listed_until
from clipmill.jobs.publishing.gates import check_gates, judged_with
from clipmill.jobs.publishing.golden import check_golden
from clipmill.jobs.publishing.night import Gate, Night, nights, now, remember, webhook_address
from clipmill.jobs.publishing.publish import held_back
from clipmill.jobs.publishing.sync import Sync, TooMuchGone, empty_gate, gone_at_last, total, unseen_gate
from clipmill.jobs.publishing.webhook import notify
from clipmill.jobs.running import embed
from clipmill.jobs.running.options import Options, new_run_id
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table import ledger
from clipmill.jobs.table.live import PUBLISHED, move_live
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.jobs.table.tombstones import kept_out
from clipmill.schemas.errors import ClipmillError, EmptySource, LeaseHeld, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.secrets import masked, named


def nightly(job: JobFile, *, say: Say, address: str | None = None, resume: str = "", **options: Any) -> Night:
    """One night. `options`: further ones of `Options`. A gate that refuses is in the result, not raised. Raises
    UserError, LeaseHeld, LeaseLost, and whatever else ends `embed`; all but a mistake that is seen before the night
    begins and LeaseHeld are remembered and told as a failed night; LeaseHeld after the sync is remembered too, and a
    store that is away before the night begins is told."""
    began_s = time.monotonic()
    webhook_address(job.nightly)
    tables = Tables.at(job.table, job.storage)
    night, history = _begun(job, tables, say)
    sync = Sync(job, tables, gone_at_last(history))
    hook = options.get("hook", lambda _: None)  # that of Options by itself knows the steps of a commit alone
    chosen = Options(
        address=address,
        command="nightly",
        resume=resume,
        keep_versions=timedelta(days=job.nightly.keep_versions_d),
        redo=sync.retry,
        review=sync.review,
        **options,
    )
    try:
        summary = embed.run(job, chosen)
        night = _counted(_synced(night, sync, summary, job), tables, summary)
        if not summary.interrupted:
            night = _sets_filled(night, job, chosen, say, hook)
        is_new = bool(summary.run) or sync.gone_samples != gone_at_last(history)
        if night.status != "interrupted":
            night = _judged(night, job, tables, summary, is_new, say)
    except TooMuchGone as error:
        night = _refused(night, tables, error.gate, sync)
    except EmptySource as error:
        latest = ledger.read_ledger(tables)
        samples = total(latest, kept_out(tables, latest))
        if not samples:
            raise
        say(error.message)
        gate = unseen_gate(error.message) if len(job.source.uri) > 1 else empty_gate(samples)
        night = _refused(night, tables, gate, sync)
    except LeaseHeld as error:
        if night.run:  # between the sync and the gates somebody else took the table: what came must not be unsaid
            with contextlib.suppress(ClipmillError, OSError):
                night = _ended(night, tables, history, began_s)
                remember(tables, replace(night, status="failed", error=masked(str(error))))
        raise
    except Exception as error:
        with contextlib.suppress(Exception):  # the store may be what failed
            night = _ended(night, tables, history, began_s)
        _remember(tables, replace(night, status="failed", error=named(error)), job, say)
        raise
    night = _ended(night, tables, history, began_s)
    is_told = night.status != "nothing" or is_unlisted(tables, night)
    return _remember(tables, night, job, say) if is_told else night


def _begun(job: JobFile, tables: Tables, say: Say) -> tuple[Night, list[Night]]:
    """The night with what the table is before it, and the nights that were. A store that is away is told at the
    webhook: what did not begin cannot be remembered."""
    night = Night(run="", table=f"{tables.database}/{tables.name}", at=now())
    try:
        if job.nightly.golden is not None:
            check_golden(job.nightly.golden, job.storage)
        rows, history = tables.open(missing_ok=True), nights(tables)
        found = readers(rows) if rows is not None else None
    except UserError:
        raise
    except Exception as error:
        if untold := notify(job.nightly, replace(night, status="failed", error=named(error))):
            say(untold)
        raise
    night = replace(night, gone_before=gone_at_last(history))
    if found is None:
        return night, history
    return replace(night, rows_before=found.newest_rows, version_before=found.newest, live_before=found.live), history


def _remember(tables: Tables, night: Night, job: JobFile, say: Say) -> Night:
    """In the log of a table that is there, and at the webhook if there is something wrong. The night with its name."""
    night = night if night.run else replace(night, run=new_run_id())
    with contextlib.suppress(ClipmillError, OSError):  # how the night ended is what has to be told
        if tables.id() is not None:
            remember(tables, night)
    if untold := notify(job.nightly, night):
        say(untold)
    return night


def _refused(night: Night, tables: Tables, gate: Gate, sync: Sync) -> Night:
    live = readers(tables.open()).live
    return replace(night, status="refused", gates=(gate,), live_after=live, gone=sync.gone_units)


def _synced(night: Night, sync: Sync, summary: Summary, job: JobFile) -> Night:
    """The night with what the sync did."""
    plan = sync.plan
    assert plan is not None, "embed shows its plan before it does anything"
    retried = {unit.unit_id for unit in plan.todo} & sync.retry.units
    hours, dollars = _cost(summary, job)
    return replace(
        night,
        run=summary.run,
        status="interrupted" if summary.interrupted else night.status,
        units=len(plan.todo) + len(plan.done),
        came=plan.new if summary.run else 0,
        changed=max(0, plan.changed - len(retried) - summary.aliases) if summary.run else 0,
        aliased=summary.aliases,
        moved=summary.moved_units,
        gone=sync.gone_units,
        gone_samples=sync.gone_samples - (sync.deleted_samples if not summary.interrupted else 0),
        retried=len(retried),
        deleted=sync.deleted_rows,
        seen=summary.seen,
        rows=summary.rows,
        rejects=summary.rejects,
        failed_units=summary.failed_units,
        samples_per_s=summary.samples_per_s,
        limited_by=summary.limited_by,
        worker_hours=hours,
        dollars=dollars,
        note=summary.note,
    )


def _sets_filled(night: Night, job: JobFile, chosen: Options, say: Say, hook: Hook) -> Night:
    """Rows of the night, and of nights that were killed before this, get the sets beside the one in use, and what
    follows from vectors beside the job's own columns. `hook` hears of the steps of both."""
    if job.nightly.sets == "leave":
        return night
    found = fill_sets(job, say=say, address=chosen.address, num_cpus=chosen.num_cpus, hook=hook)
    if any(one.interrupted for one in found):
        return replace(night, status="interrupted", sets=[asdict(one) for one in found])
    columns = fill_columns(Tables.at(job.table, job.storage), "nightly", say, hook)
    return replace(night, sets=[asdict(one) for one in found], columns=[asdict(one) for one in columns])


def _counted(night: Night, tables: Tables, summary: Summary) -> Night:
    """What came of the rows: all are new where nothing left, neither for what took its place nor to another place."""
    left = summary.replaced_units or summary.moved_units or summary.moved_rows
    if not summary.rows or not left:
        return replace(night, rows_new=summary.rows, rows_changed=0)
    found = arrived(tables.open(), night.version_before)
    return night if found is None else replace(night, rows_new=found.new, rows_changed=found.changed)


def _cost(summary: Summary, job: JobFile) -> tuple[float | None, float | None]:
    """Of the workers, each from when it was ready to when it went: there are more and fewer of them as nodes come and
    go. Dollars only where they had GPUs and the job names a price."""
    if not summary.run:
        return None, None
    hours = summary.worker_s / 3600
    price, gpus = job.plan.price_per_gpu_hour, job.workers.gpus
    each = 1.0 if gpus == "auto" else float(gpus)
    dollars = hours * each * price if price is not None and summary.device not in ("", "cpu") else None
    return round(hours, 6), None if dollars is None else round(dollars, 4)


def _judged(night: Night, job: JobFile, tables: Tables, summary: Summary, is_new: bool, say: Say) -> Night:
    """Maintained, judged and published, unless readers see the newest version already."""
    seen = readers(tables.open())
    if not is_new and seen.live == seen.newest:
        return night
    maintained: dict[str, Any] = {}
    live = seen.live
    with leased(tables, "nightly", say) as (lease, _):
        came = summary.run or any(one["new"] for one in (*night.sets, *night.columns))
        if came or index_is_behind(tables.open()):  # the latter: a night before was killed once its rows were there
            keep = timedelta(days=job.nightly.keep_versions_d)
            maintained = plain(maintain(tables, lease, say=say, keep=keep))
        failed = {unit["unit_id"] for unit in summary.failed_units}
        gates = check_gates(tables, judged_with(tables, job.nightly, failed, held_back(tables)), say=say)
        if all(gate.passed for gate in gates):
            live = int(tables.open().version)
            move_live(tables, lease, live, PUBLISHED, {"overridden": []})
            status = "units" if failed else "published"
        else:
            status = "refused"
        run = night.run or lease.run
    return replace(night, run=run, status=status, gates=gates, live_after=live, maintained=maintained)


def _ended(night: Night, tables: Tables, history: list[Night], began_s: float) -> Night:
    rows = tables.open(missing_ok=True)
    if rows is None:
        return replace(night, seconds=round(time.monotonic() - began_s, 3))
    versions = {"rows": int(rows.version)}
    versions |= {part: int(tables.open(part).version) for part in SIDE_TABLES}
    seen = readers(rows)
    return replace(
        night,
        seconds=round(time.monotonic() - began_s, 3),
        versions=versions,
        rows_after=seen.newest_rows,
        live_after=seen.live,
        listed_until=listed_until(tables, history, night.version_before),
    )
