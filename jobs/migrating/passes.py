"""The passes of a fill over the rows that a set has not got yet: rows come, go and move while one is under way."""

import time

from clipmill.jobs.cluster import local_node
from clipmill.jobs.migrating.fill import Filler
from clipmill.jobs.migrating.fill_plan import FillPlan, plan_fill
from clipmill.jobs.migrating.reembed_plan import ReembedOptions
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.running.actors.interrupts import draining_on_signals
from clipmill.jobs.running.actors.slots import Slot
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.meter import Meter
from clipmill.jobs.running.summary import StageClock, failed_units
from clipmill.jobs.table import sets
from clipmill.jobs.table.originals import Originals
from clipmill.jobs.terminal.progress import Snapshot
from clipmill.schemas.columns import FILL_ATTEMPT
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.tasks import WorkContext
from clipmill.workers.write import reject_table, write_reject_fragments


class Passes:
    """`run` once; then it says how that went. `since_s` and `until_s`, by the monotonic clock: from the first hand-out
    to the last commit, as `embed` counts. `failed`: units that the last pass gave up on."""

    def __init__(self, context: RunContext, options: ReembedOptions, force: Workforce, filler: Filler) -> None:
        self.context, self.options, self.force, self.filler = context, options, force, filler
        self.job, self.tables, self.lease, self.progress = (
            context.job,
            context.tables,
            context.lease,
            context.progress,
        )
        self.since_s = self.until_s = time.monotonic()
        self.failed: list[dict[str, str]] = []
        self.interrupted = False
        self._in_flight = self.job.workers.units_in_flight
        at_the_model = self._sent(0).at_the_model(force.facts.callers)
        self._clock = StageClock(force.facts.threads, self._in_flight, callers=at_the_model)
        self._slots: list[Slot] = []
        self._units = self._seen = 0  # of the pass that is under way
        self._dispatcher = self._dispatcher_of(FillPlan())
        self._meter = Meter(context, force, filler, self._dispatcher, self._clock)

    @property
    def limited_by(self) -> str:
        return self._clock.limited_by(self._dispatcher.worker_s)

    def run(self) -> None:
        """Until nothing is left, or a pass brings nothing."""
        self.since_s = time.monotonic()
        self.progress.start_clock()
        try:
            self._all()
        except BaseException as error:
            self._meter.close(f"{type(error).__name__}: {error}")
            raise
        self._meter.close()

    def _all(self) -> None:
        fingerprint, filler = self.force.fingerprint, self.filler
        while True:
            rows = self.tables.open()
            known = sets.failures(self.tables, rows, fingerprint, run=self.lease.run if self.options.again else "")
            found = plan_fill(rows, filler.slug, Originals(self.tables, self.options.allow_sources), known)
            self._reject(found.refused)
            if not found.units:
                return
            before = (filler.done.rows, sum(filler.done.rejects.values()), filler.done.again)
            self._pass(found)
            after = (filler.done.rows, sum(filler.done.rejects.values()), filler.done.again)
            if self.interrupted or before == after:
                return

    def _reject(self, refused: list[tuple[str, Reject]]) -> None:
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
                fingerprint=self.force.fingerprint.weights_sha256[:16],
                table_id=self.filler.table_id,
            )
            fragments += write_reject_fragments(made, self.tables.uri("rejects"), self.tables.options)
        self.filler.append_rejects(fragments)
        done = self.filler.done
        for _, one in refused:
            done.seen += 1
            done.rejects[one.reason] = done.rejects.get(one.reason, 0) + 1

    def _sent(self, version: int) -> WorkContext:
        return WorkContext(
            run=self.lease.run,
            rows_uri=self.tables.rows,
            rows_version=version,
            rejects_uri=self.tables.uri("rejects"),
            source=self.job.source,
            storage=self.job.storage,
            limits=self.job.limits,
            units_in_flight=self.job.workers.units_in_flight,
            table_id=self.filler.table_id,
            fill=self.filler.slug,
            options=self.tables.options,
        )

    def _dispatcher_of(self, found: FillPlan) -> Dispatcher:
        return Dispatcher(
            Plan(todo=tuple(found.units), done=()),
            self.job.limits,
            start_actor=self.force.add,
            on_receipt=self._received,
            units_in_flight=self._in_flight,
            patience=self.force.patience(),
        )

    def _received(self, receipt: Receipt) -> None:
        self._clock.add(receipt)
        self.filler.offer(receipt)
        self._units += 1
        self._seen += receipt.seen

    def _pass(self, found: FillPlan) -> None:
        self.filler.expect(found.shared)
        before, self._dispatcher = self._dispatcher, self._dispatcher_of(found)
        dispatcher = self._meter.dispatcher = self._dispatcher
        dispatcher.worker_s, dispatcher.restarts = before.worker_s, before.restarts
        dispatcher.on_ended = self._meter.ended
        self._units = self._seen = 0
        if self._slots:  # the bar begins anew, and nobody should wonder why
            have = counted(found.rows, "row has", "rows have")
            self.progress.say(f"another pass: {have} no vector of '{self.filler.slug}' yet")
            self.progress.start_clock()
        else:
            self._slots = self.force.attach(self._sent(int(found.units[0].etag)))
            self.since_s = time.monotonic()
        for slot in self._slots:
            dispatcher.adopt(slot)
        dispatcher.wanted = self.force.shape.num
        try:
            with draining_on_signals(dispatcher, self.progress):
                dispatcher.run(lambda: self._tick(found.rows))
        finally:
            self.filler.commit()  # what is done is committed, whatever ended the loop
            self.until_s = time.monotonic()
        self.interrupted = dispatcher.draining
        self.failed = failed_units(dispatcher.attempts.failed)
        self._slots = dispatcher.slots

    def _tick(self, rows: int) -> None:
        """Of a pass over so many rows. Called at least every half second; what it raises ends the run."""
        local_node.check()
        if self.lease.lost is not None:
            raise self.lease.lost
        self.filler.commit_if_due()
        self._meter.tick(time.monotonic())
        dispatcher, done = self._dispatcher, self.filler.done
        self.progress.show(
            Snapshot(
                units_done=self._units,
                units_total=len(dispatcher.plan.todo),
                samples=self._seen,
                samples_total=rows,
                rows=done.rows,
                rejects=sum(done.rejects.values()),
                failed=len(dispatcher.attempts.failed),
                workers=sum(slot.attached for slot in dispatcher.slots),
                limited_by=self.limited_by,
            )
        )
