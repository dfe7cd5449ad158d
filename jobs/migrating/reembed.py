"""`clipmill reembed TABLE --model M`: a set of another model beside the one in use, filled by the same actors.

Plan → fill lease → connect → load the model → add the columns → passes over what is not filled → index. Running it
again goes on where it stopped; what is filled is seen in the table.
"""

import contextlib
import json
import time
from dataclasses import dataclass, field, replace

from clipmill.jobs.cluster import local_node
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.fill import Filled, Filler
from clipmill.jobs.migrating.fill_plan import FillPlan, plan_fill
from clipmill.jobs.migrating.reembed_plan import (
    COMMAND,
    ReembedOptions,
    check_heads,
    job_for,
    look,
    slug_for,
    vocabulary_for,
)
from clipmill.jobs.migrating.set_heads import fill_heads
from clipmill.jobs.planning.jobfile import redacted
from clipmill.jobs.planning.listing import Listing
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.dispatch import Dispatcher
from clipmill.jobs.running.interrupts import draining_on_signals
from clipmill.jobs.running.meter import tell_attempt
from clipmill.jobs.running.options import Options, new_run_id
from clipmill.jobs.running.slots import Slot
from clipmill.jobs.running.summary import StageClock, failed_units, rate
from clipmill.jobs.running.workforce import Workforce, loaded_workforce
from clipmill.jobs.table import compat, heads, memory, sets
from clipmill.jobs.table.originals import Originals
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.progress import Progress, Snapshot
from clipmill.schemas.columns import FILL_ATTEMPT, set_fields, sets_in, table_id
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.receipts import Receipt
from clipmill.schemas.rejects import Reject
from clipmill.schemas.secrets import masked
from clipmill.schemas.tasks import WorkContext
from clipmill.workers.naming import names as model_names
from clipmill.workers.write import reject_table, write_reject_fragments


@dataclass(frozen=True, kw_only=True)
class Reembedded:
    """`filled + failed + left == table_rows`: of the set as it is now; `rows` and `rejects` are of this run."""

    run: str
    table: str
    set: str
    model: str = ""
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    table_rows: int = 0
    filled: int = 0
    failed: int = 0
    left: int = 0
    failed_units: list[dict[str, str]] = field(default_factory=list)
    redone_fragments: int = 0
    commits: int = 0
    requests: int = 0
    bytes_read: int = 0
    image_bytes: int = 0
    seconds: float = 0.0
    startup_s: float = 0.0
    rows_per_s: float = 0.0
    limited_by: str = ""
    index: str = ""
    interrupted: bool = False
    resume: str = ""


def reembed(table: str, storage: Storage, options: ReembedOptions) -> Reembedded:
    """Fill the set until nothing is left that can be. Raises UserError, LeaseHeld where another fill is under way,
    LeaseLost."""
    memory.use_little()
    tables = Tables.at(table, storage)
    rows = tables.open()
    job = job_for(tables, options)
    model_names.check(job.model.spec(), here=options.address is None)
    slug = slug_for(rows.schema, options)
    check_heads(rows.schema, options)
    vocabulary = vocabulary_for(tables, options)
    with Progress() as progress:
        lease = Lease(tables, new_run_id(), COMMAND, ttl_s=options.lease_ttl_s, key=FILL_KEY)
        lines.about(lease.run)
        context = RunContext(
            job=job,
            options=Options(address=options.address, command=COMMAND, num_cpus=options.num_cpus),
            tables=tables,
            lease=lease,
            progress=progress,
            vocabulary=vocabulary,
            listing=Listing(units=(), left_out={}),
            started_s=time.monotonic(),
        )
        context.take_lease()
        try:
            return _Fill(context, options, slug).run()
        finally:
            lease.release(progress.say)


class _Fill:
    """One run under the fill lease."""

    def __init__(self, context: RunContext, options: ReembedOptions, slug: str) -> None:
        self.context, self.options, self.slug = context, options, slug
        self.job, self.tables, self.lease, self.progress = (
            context.job,
            context.tables,
            context.lease,
            context.progress,
        )
        self.working_since = self.until_s = context.started_s
        self.failed: list[dict[str, str]] = []
        self.interrupted = False
        self.limited_by = ""

    def run(self) -> Reembedded:
        self.progress.phase("looking for rows to fill")
        found = look(self.tables, self.tables.open(), self.slug, self.options)
        if not found.units and not found.refused and self.slug in sets_in(self.tables.open().schema):
            self._score(sets.fingerprint_of(self.tables.open().schema, self.slug))
            return self._whole(self._summary(Filled(), run=""))
        self.progress.say(f"{found.rows:,} rows to fill, in {len(found.units):,} fragments")
        with loaded_workforce(self.context, found.units) as force:
            self._check_model(force.fingerprint)
            force.self_check(self.tables, self.lease.run)
            force.label_vectors()
            facts = force.facts
            self.progress.phase(f"{force.fingerprint.model} on {facts.device}, batches of {facts.batch_size}")
            return self._logged(force, force.fingerprint)

    def _check_model(self, fingerprint: Fingerprint) -> None:
        in_use = compat.stored_fingerprint(self.tables.open().schema)
        if not fingerprint.differences(in_use):
            raise UserError(
                f"the table's vectors are of these weights already, as {in_use.model} {in_use.pretrained}".rstrip(),
                "name another model",
            )
        heads.check_fit(self.options.heads, fingerprint)

    def _score(self, fingerprint: Fingerprint) -> None:
        heads.check_fit(self.options.heads, fingerprint)
        fill_heads(self.tables, self.lease, self.slug, self.options.heads, self.progress.phase)

    def _logged(self, force: Workforce, fingerprint: Fingerprint) -> Reembedded:
        """Events of their own: what reads the runs of `embed` must not take this for one."""
        from clipmill.schemas.plain import plain

        self._log("fill-started", json.dumps(plain(redacted(self.job))))
        try:
            fields = set_fields(
                self.slug,
                dim=fingerprint.dim,
                fingerprint_json=fingerprint.to_json(),
                vocabulary_json=force.vocabulary_json,
            )
            self.options.hook("before_columns")
            sets.add_set(self.tables, self.slug, fields, fingerprint)
            self.options.hook("after_columns")
            filler = Filler(self.tables, self.lease, self.slug, self.job.commit, hook=self.options.hook)
            self._passes(force, filler, fingerprint)
            self._score(fingerprint)
            summary = self._whole(self._summary(filler.done, run=self.lease.run))
        except BaseException as error:
            with contextlib.suppress(OSError, ClipmillError):  # the error is what has to be told
                self._log("fill-failed", masked(f"{type(error).__name__}: {str(error)[:500]}"))
            raise
        self._log("fill-finished", json.dumps(plain(summary)))
        return summary

    def _log(self, event: str, detail: str) -> None:
        mine = table_id(self.tables.open().schema)
        self.tables.log_run(self.lease.run, COMMAND, event, detail, table_id=mine)

    def _passes(self, force: Workforce, filler: Filler, fingerprint: Fingerprint) -> None:
        """Over what is left, until nothing is, or a pass brings nothing: rows come and go meanwhile."""
        slots: list[Slot] = []
        self.working_since = time.monotonic()
        self.progress.start_clock()
        while True:
            rows = self.tables.open()
            known = sets.failures(self.tables, rows, fingerprint, run=self.lease.run if self.options.again else "")
            found = plan_fill(rows, self.slug, Originals(self.tables, self.options.allow_sources), known)
            self._reject(filler, found.refused, fingerprint)
            if not found.units:
                return
            before = (filler.done.rows, sum(filler.done.rejects.values()), filler.done.again)
            slots = self._pass(force, filler, found, slots)
            after = (filler.done.rows, sum(filler.done.rejects.values()), filler.done.again)
            if self.interrupted or before == after:
                return

    def _reject(self, filler: Filler, refused: list[tuple[str, Reject]], fingerprint: Fingerprint) -> None:
        """Rows whose place may not be read."""
        by_unit: dict[str, list[Reject]] = {}
        for unit_id, one in refused:
            by_unit.setdefault(unit_id, []).append(one)
        fragments: list[str] = []
        for unit_id, rejects in by_unit.items():
            made = reject_table(
                rejects,
                unit_id=unit_id,
                run=self.lease.run,
                attempt=FILL_ATTEMPT,
                fingerprint=fingerprint.weights_sha256[:16],
                table_id=filler.table_id,
            )
            fragments += write_reject_fragments(made, self.tables.uri("rejects"), self.tables.options)
        filler.append_rejects(fragments)
        for _, one in refused:
            filler.done.rejects[one.reason] = filler.done.rejects.get(one.reason, 0) + 1

    def _sent(self, filler: Filler, version: int) -> WorkContext:
        return WorkContext(
            run=self.lease.run,
            rows_uri=self.tables.rows,
            rows_version=version,
            rejects_uri=self.tables.uri("rejects"),
            source=self.job.source,
            storage=self.job.storage,
            limits=self.job.limits,
            units_in_flight=self.job.workers.units_in_flight,
            table_id=filler.table_id,
            fill=self.slug,
            options=self.tables.options,
        )

    def _pass(self, force: Workforce, filler: Filler, found: FillPlan, slots: list[Slot]) -> list[Slot]:
        context = self._sent(filler, int(found.units[0].etag))
        filler.expect(found.shared)
        in_flight = context.units_in_flight
        clock = StageClock(force.facts.threads, in_flight, callers=context.at_the_model(force.facts.callers))
        counted = {"units": 0, "seen": 0}

        def on_receipt(receipt: Receipt) -> None:
            clock.add(receipt)
            filler.offer(receipt)
            counted["units"] += 1
            counted["seen"] += receipt.seen

        plan = Plan(todo=tuple(found.units), done=())
        dispatcher = Dispatcher(
            plan,
            self.job.limits,
            start_actor=force.add,
            on_receipt=on_receipt,
            units_in_flight=in_flight,
            patience=force.patience(),
        )
        dispatcher.on_ended = tell_attempt
        if not slots:
            slots = force.attach(context)
            self.working_since = time.monotonic()
        for slot in slots:
            dispatcher.adopt(slot)
        dispatcher.wanted = force.shape.num

        def tick() -> None:
            local_node.check()
            if self.lease.lost is not None:
                raise self.lease.lost
            filler.commit_if_due()
            self.limited_by = clock.limited_by(dispatcher.worker_s)
            self.progress.show(
                Snapshot(
                    units_done=counted["units"],
                    units_total=len(plan.todo),
                    samples=counted["seen"],
                    samples_total=found.rows,
                    rows=filler.done.rows,
                    rejects=sum(filler.done.rejects.values()),
                    failed=len(dispatcher.attempts.failed),
                    workers=sum(slot.attached for slot in dispatcher.slots),
                    limited_by=self.limited_by,
                )
            )

        try:
            with draining_on_signals(dispatcher, self.progress):
                dispatcher.run(tick)
        finally:
            filler.commit()  # what is done is committed, whatever ended the loop
            self.until_s = time.monotonic()
        self.interrupted = dispatcher.draining
        self.failed = failed_units(dispatcher.attempts.failed)
        return dispatcher.slots

    def _whole(self, summary: Reembedded) -> Reembedded:
        """With the indices that a set has once no row is left, as its size asks for: an earlier call may have been
        killed before them."""
        if summary.left or self.interrupted or not self.options.index:
            return summary
        from clipmill.jobs.migrating.set_index import build_set_index

        return replace(summary, index=build_set_index(self.tables, self.slug, tell=self.progress.phase))

    def _summary(self, done: Filled, *, run: str) -> Reembedded:
        worked_s = self.until_s - self.working_since  # from the first hand-out to the last commit, as `embed` counts
        found = sets.coverage(self.tables, self.tables.open(), self.slug)
        return Reembedded(
            run=run,
            table=f"{self.tables.database}/{self.tables.name}",
            set=self.slug,
            model=f"{found.model} {found.pretrained}".strip(),
            rows=done.rows,
            rejects=dict(sorted(done.rejects.items())),
            table_rows=found.rows,
            filled=found.filled,
            failed=found.failed,
            left=found.left,
            failed_units=self.failed,
            redone_fragments=done.again,
            commits=done.commits,
            requests=done.requests,
            bytes_read=done.bytes_read,
            image_bytes=done.image_bytes,
            seconds=round(time.monotonic() - self.context.started_s, 3),
            startup_s=round(self.working_since - self.context.started_s, 3),
            rows_per_s=rate(done.rows, worked_s) if run else 0.0,
            limited_by=self.limited_by,
            interrupted=self.interrupted,
            resume=self.options.resume if self.interrupted or found.left else "",
        )
