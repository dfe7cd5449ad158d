"""The units of a plan on their way: handed out, received, committed and shown."""

import time
from typing import Any

from clipmill.jobs.cluster import local_node
from clipmill.jobs.cluster.nodes import nodes
from clipmill.jobs.cluster.shape import wanted
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor
from clipmill.jobs.committing.duplicates import Deduplicator, can_repeat
from clipmill.jobs.committing.moves import Gone, gone_from, unlisted
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.actors.attempts import Failed
from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.running.actors.interrupts import draining_on_signals
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.jobs.running.collect import Collector, Totals
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.meter import Meter
from clipmill.jobs.running.summary import StageClock
from clipmill.jobs.table.tombstones import read_tombstones
from clipmill.jobs.terminal.progress import Snapshot
from clipmill.schemas.columns import has_phash, table_id
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.tasks import WorkContext

LOOK_EVERY_S = 10.0  # at the cluster: nodes join and leave


class Work:
    """`run` once; then it says what became of the plan. `since_s` and `until_s`, by the monotonic clock: from the first
    worker that was ready to the last commit."""

    def __init__(self, context: RunContext, force: Workforce, plan: Plan) -> None:
        self.context, self.force, self.plan = context, force, plan
        job, tables, lease = context.job, context.tables, context.lease
        rows = tables.open()
        self._sent = _work_context(context, rows)
        committer = Committer(tables, lease, hook=context.options.hook)
        compactor = Compactor(tables, lease)
        self.collector = Collector(
            committer,
            plan,
            job.commit,
            _deduplicator(context, force, plan, int(rows.version)),
            compactor.added,
            gone_from(job.storage),
        )
        in_flight = self._sent.units_in_flight
        callers = self._sent.at_the_model(force.facts.callers)
        self.clock = StageClock(force.facts.threads, in_flight, callers=callers)
        self.dispatcher = Dispatcher(
            plan,
            job.limits,
            start_actor=force.add,
            on_receipt=self._received,
            units_in_flight=in_flight,
            patience=force.patience(),
        )
        self.meter = Meter(context, force, self.collector, self.dispatcher, self.clock)
        self.dispatcher.on_ended = self.meter.ended
        self.since_s = self.until_s = self._looked_s = time.monotonic()
        self._units = self._seen = 0  # received: what a commit under way has taken from the collector counts too

    @property
    def totals(self) -> Totals:
        """What has been committed."""
        return self.collector.totals

    @property
    def failed(self) -> list[Failed]:
        return self.dispatcher.attempts.failed

    @property
    def left(self) -> int:
        """Units that were neither committed nor given up on."""
        return len(self.plan.todo) - self.totals.units - len(self.failed)

    @property
    def drained(self) -> bool:
        return self.dispatcher.draining

    def run(self) -> None:
        """To the plan's end, or until a signal asked it to stop. What is done is committed, whatever ends it."""
        for slot in self.force.attach(self._sent):
            self.dispatcher.adopt(slot)
        self.dispatcher.wanted = self.force.shape.num
        self.collector.start()
        self.since_s = self._looked_s = time.monotonic()
        self.context.progress.start_clock()
        try:
            try:
                with draining_on_signals(self.dispatcher, self.context.progress):
                    self.dispatcher.run(self._tick)
            finally:
                self.collector.close()
        except BaseException as error:
            self.meter.close(f"{type(error).__name__}: {error}")
            raise
        self.meter.close()
        self.until_s = time.monotonic()

    def say_what_stays(self) -> None:
        """Before an error ends the run: it may sound as if nothing had been written."""
        if self.totals.commits:
            did, stay = ("was", "stays") if self.totals.rows == 1 else ("were", "stay")
            self.context.progress.say(
                f"{counted(self.totals.rows, 'row')} of {counted(self.totals.units, 'unit')} {did} committed before "
                f"this and {stay}; the same command goes on from there"
            )

    def _received(self, receipt: Receipt) -> None:
        self.clock.add(receipt)
        self.collector.offer(receipt)
        self._units += 1
        self._seen += receipt.seen

    def _tick(self) -> None:
        """Called at least every half second; what it raises ends the run."""
        local_node.check()
        if self.collector.error is not None:
            raise self.collector.error
        if self.context.lease.lost is not None:
            raise self.context.lease.lost
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            left = max(1, len(self.plan.todo) - self.totals.units)
            workers, force = self.context.job.workers, self.force
            self.dispatcher.wanted = wanted(workers, force.shape, nodes(), left, force.grow)
        self.meter.tick(now_s)
        self.context.progress.show(self._snapshot())

    def _snapshot(self) -> Snapshot:
        totals = self.totals
        return Snapshot(
            units_done=self._units,
            units_total=len(self.plan.todo),
            samples=self._seen,
            samples_total=self.plan.num_samples,
            rows=totals.rows,
            rejects=sum(totals.rejects.values()),
            failed=len(self.failed),
            workers=sum(slot.attached for slot in self.dispatcher.slots),
            limited_by=self.clock.limited_by(self.dispatcher.worker_s),
        )


def _work_context(context: RunContext, rows: Any) -> WorkContext:
    """What every worker is sent. Fragments are written against this version of `rows`."""
    job, tables = context.job, context.tables
    return WorkContext(
        run=context.lease.run,
        rows_uri=tables.rows,
        rows_version=int(rows.version),
        rejects_uri=tables.uri("rejects"),
        source=job.source,
        storage=job.storage,
        limits=job.limits,
        thumbnails=job.thumbnails,
        phash=has_phash(rows.schema),  # whoever asked for it: no night leaves a gap in the column
        units_in_flight=job.workers.units_in_flight,
        table_id=table_id(rows.schema),
        heads=context.heads,
        deleted=read_tombstones(tables),
        options=tables.options,
    )


def _deduplicator(context: RunContext, force: Workforce, plan: Plan, version: int) -> Deduplicator | None:
    """None where no id can come twice. `version` is the one that workers write against."""
    source, storage = context.job.source, context.job.storage
    listed = {*plan.done, *(unit.unit_id for unit in plan.todo)}
    gone = Gone(unlisted(listed, plan.ledger), gone_from(storage), plan.replaced)
    if can_repeat(source) or (source.format == "files" and gone.has_files()):
        return Deduplicator(context.tables, version, force.fingerprint.weights_sha256[:16], gone)
    return None
