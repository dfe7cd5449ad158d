"""The main job: survey → plan → lease → heal → dispatch → commit → index.

Running it again resumes, or says in seconds that there is nothing to do and writes nothing.
"""

import secrets
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from jobs import compat, heal, memory
from jobs.commit import Hook, no_hook
from jobs.duplicates import units_to_redo
from jobs.finish import Readers, finish_table, readers
from jobs.jobfile import refuse_unread_keys
from jobs.lease import Lease
from jobs.ledger import Ledger, read_ledger
from jobs.ledger import left_out as ledger_left_out
from jobs.moves import gone_from
from jobs.plan import Plan, make_plan
from jobs.progress import Progress
from jobs.run import Run
from jobs.summary import Summary
from jobs.survey import survey
from jobs.table_errors import check_folder
from jobs.tables import Tables
from jobs.trial import refuse_to_shrink
from schemas.config import JobFile
from schemas.errors import UserError
from schemas.left_out import LeftOut, merge
from schemas.units import WorkUnit
from workers import model_names


@dataclass(slots=True, kw_only=True)
class Options:
    """How to run, as opposed to what. `hook` is called at each step of a commit, for tests that kill there."""

    address: str | None = None
    publish: bool = False
    command: str = "embed"
    resume: str = ""  # the command that resumes, for a person
    lease_ttl_s: float = 30.0
    num_cpus: int | None = None  # of a cluster started here; None: the machine's
    hook: Hook = no_hook

    def publish_hint(self) -> str:
        again = self.resume or "clipmill embed JOB"
        return f"`{again} --publish` publishes the newest"


def new_run_id() -> str:
    """Sorts by time: 20261121T193000-1a2b3c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


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
            from workers.storage import check_store

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
