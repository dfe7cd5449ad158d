"""One run of the main job under its lease: workers, units, commits, and the closing word."""

import contextlib
import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any

from clipmill.jobs.cluster import connect as cluster
from clipmill.jobs.cluster import local_node
from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor, tidy_side_tables
from clipmill.jobs.committing.duplicates import Deduplicator, can_repeat, units_to_redo
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.committing.moves import Gone, gone_from, unlisted
from clipmill.jobs.planning.estimate import Estimate, Worker, estimate
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.planning.trial import refuse_to_shrink
from clipmill.jobs.running.collect import Collector, Totals
from clipmill.jobs.running.dispatch import Dispatcher
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.interrupts import draining_on_signals, noting_interrupts
from clipmill.jobs.running.options import Options
from clipmill.jobs.running.summary import StageClock, Summary, failed_units, rate
from clipmill.jobs.running.workforce import Workforce
from clipmill.jobs.table import compat
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.tables import Tables, new_id
from clipmill.jobs.terminal.progress import Progress, Snapshot
from clipmill.schemas import columns
from clipmill.schemas.config import JobFile
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.left_out import LeftOut, merge
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.receipts import Receipt
from clipmill.schemas.secrets import masked
from clipmill.schemas.tasks import WorkContext
from clipmill.schemas.units import WorkUnit
from clipmill.schemas.vocabulary import Vocabulary


class Run:
    """One run under its lease, in the order its methods stand."""

    def __init__(
        self,
        job: JobFile,
        options: Options,
        tables: Tables,
        lease: Lease,
        progress: Progress,
        vocabulary: Vocabulary | None,
        started: float,
    ) -> None:
        self.job, self.options, self.tables, self.lease = job, options, tables, lease
        self.progress, self.vocabulary, self.started = progress, vocabulary, started
        self.healed = 0
        self.working_since = started
        self.estimate: Estimate | None = None
        self.device = ""
        self.table_id = ""
        self.left_out: LeftOut = {}
        self.totals = Totals()

    def run(self, units: list[WorkUnit], left_out: LeftOut) -> Summary:
        """`left_out`: what the listing showed beside the units.

        Connect, load the model, and only then write anything: a model that cannot be loaded leaves no trace."""
        self.left_out = left_out
        self.progress.phase(f"{len(units)} units; starting workers")
        with (
            noting_interrupts() as check_interrupt,
            cluster.connected(self.options.address, num_cpus=self.options.num_cpus),
        ):
            check_interrupt()
            nodes = cluster.nodes()
            shape = cluster.shape(self.job.workers, nodes, len(units))
            if self.options.address is None:  # no autoscaler brings a larger machine
                cluster.check_fits(shape, nodes)
            force = Workforce(job=self.job, shape=shape, vocabulary=self.vocabulary, say=self.progress.phase)
            force.start()
            try:
                facts = force.facts()
                check_interrupt()
                fingerprint = Fingerprint.from_json(facts.fingerprint_json)
                if not self.lease.epoch:
                    self.tables.ensure_side_tables()
                    self.lease.take(on_wait=self.progress.say)
                    self.lease.keep(self.progress.say)
                rows = self.tables.open(missing_ok=True)
                if rows is not None:  # perhaps another run made it since this one looked
                    compat.check_table(rows.schema, self.job, self.vocabulary, fingerprint)
                self.tables.ensure_side_tables()  # under the lease: an older clipmill's get the columns they lack
                self.device = facts.device
                gpus = force.shape.gpus if facts.device != "cpu" else 0.0
                self.estimate = estimate(self.job, self.tables, Worker(gpus=gpus, cores=force.shape.threads))
                self.progress.phase(f"{fingerprint.model} on {facts.device}, batches of {facts.batch_size}")
                if note := fingerprint.provenance.get("precision_note"):
                    self.progress.say(f"the vectors are computed in fp32, which is slower: {note}")
                return self._logged(units, force, fingerprint)
            finally:
                force.stop()

    def _logged(self, units: list[WorkUnit], force: Workforce, fingerprint: Fingerprint) -> Summary:
        from clipmill.jobs.planning.jobfile import redacted
        from clipmill.schemas.plain import plain

        found = self.tables.id()
        self.table_id = new_id() if found is None else found
        self._log("started", {**plain(redacted(self.job)), "folder": os.getcwd()})
        try:
            latest = self._prepare(force, fingerprint)
            plan = make_plan(units, latest, units_to_redo(self.tables, latest, units, gone_from(self.job.storage)))
            refuse_to_shrink(plan, latest, self.job.source.limit)
            summary = self._work(plan, latest, force, fingerprint)
        except BaseException as error:
            self._say_what_stays()
            with contextlib.suppress(OSError, ClipmillError):  # the error is what has to be told
                self._log("failed", masked(f"{type(error).__name__}: {str(error)[:500]}"))
            raise
        self._log("drained" if summary.interrupted else "finished", plain(summary))
        return summary

    def _say_what_stays(self) -> None:
        """Before an error ends the run: it may sound as if nothing had been written."""
        if self.totals.commits:
            self.progress.say(
                f"{self.totals.rows:,} rows of {self.totals.units:,} units were committed before this and stay; "
                "the same command goes on from there"
            )

    def _log(self, event: str, detail: Any) -> None:
        text = detail if isinstance(detail, str) else json.dumps(detail)
        self.tables.log_run(self.lease.run, self.options.command, event, text, table_id=self.table_id)

    def _prepare(self, force: Workforce, fingerprint: Fingerprint) -> Ledger:
        """Check vectors against the reference, compute labels; heal the table, or create it. Returns the ledger."""
        force.self_check(self.tables, self.lease.run, fingerprint)
        force.label_vectors()
        if self.tables.exists():
            self.lease.fence()
            latest, self.healed = heal.heal(self.tables, Committer(self.tables, self.lease))
            return latest
        self.tables.create("", self._schema(fingerprint, force.vocabulary_json))
        self.lease.fence()
        return {}

    def _schema(self, fingerprint: Fingerprint, vocabulary_json: str | None) -> Any:
        from clipmill.jobs.table.lancedb_function import embedding_functions_metadata

        schema = columns.rows_schema(
            dim=fingerprint.dim,
            keep=self.job.source.keep_types,
            fingerprint_json=fingerprint.to_json(),
            vocabulary_json=vocabulary_json,
            thumbnails=self.job.thumbnails,
        )
        mine = {columns.TABLE_ID_KEY: self.table_id.encode()}
        return schema.with_metadata({**embedding_functions_metadata(fingerprint), **mine})

    def _work(self, plan: Plan, latest: Ledger, force: Workforce, fingerprint: Fingerprint) -> Summary:
        rows = self.tables.open()
        context = WorkContext(
            run=self.lease.run,
            rows_uri=self.tables.rows,
            rows_version=int(rows.version),
            rejects_uri=self.tables.uri("rejects"),
            source=self.job.source,
            storage=self.job.storage,
            limits=self.job.limits,
            thumbnails=self.job.thumbnails,
            units_in_flight=self.job.workers.units_in_flight,
            table_id=columns.table_id(rows.schema),
            options=self.tables.options,
        )
        deduplicate = None
        is_gone = gone_from(self.job.storage)
        listed = {*plan.done, *(unit.unit_id for unit in plan.todo)}
        gone = Gone(unlisted(listed, latest), is_gone, plan.replaced)
        if can_repeat(self.job.source) or (self.job.source.format == "files" and gone.has_files()):
            deduplicate = Deduplicator(self.tables, int(rows.version), fingerprint.weights_sha256[:16], gone)
        committer = Committer(self.tables, self.lease, hook=self.options.hook)
        compactor = Compactor(self.tables, self.lease)
        collector = Collector(committer, plan, latest, self.job.commit, deduplicate, compactor.added, is_gone)
        self.totals = collector.totals
        shape, in_flight = force.shape, context.units_in_flight
        clock = StageClock(shape.num, shape.threads, in_flight, callers=context.at_the_model(force.callers))

        def on_receipt(receipt: Receipt) -> None:
            clock.add(receipt)
            collector.offer(receipt)

        dispatcher = Dispatcher(
            plan,
            self.job.limits,
            start_actor=force.add,
            on_receipt=on_receipt,
            units_in_flight=in_flight,
        )
        for slot in force.attach(context):
            dispatcher.adopt(slot)
        dispatcher.wanted = force.shape.num
        collector.start()
        self.working_since = time.monotonic()
        self.progress.start_clock()
        try:
            with draining_on_signals(dispatcher, self.progress):
                dispatcher.run(self._tick(dispatcher, collector, clock, plan))
        finally:
            collector.close()  # what is done is committed, whatever ended the loop
        return self._summary(plan, force, dispatcher, collector, clock)

    def _tick(self, dispatcher: Dispatcher, collector: Collector, clock: StageClock, plan: Plan) -> Callable[[], None]:
        looked = time.monotonic()

        def tick() -> None:
            nonlocal looked
            local_node.check()
            if collector.error is not None:
                raise collector.error
            if self.lease.lost is not None:
                raise self.lease.lost
            now = time.monotonic()
            if now - looked >= 10.0:  # nodes join and leave
                looked = now
                left = max(1, len(plan.todo) - collector.totals.units)
                dispatcher.wanted = cluster.shape(self.job.workers, cluster.nodes(), left).num
            totals = collector.totals
            self.progress.show(
                Snapshot(
                    units_done=totals.units + len(collector.ready) + len(collector.held),
                    units_total=len(plan.todo),
                    samples=totals.seen + sum(r.seen for r in list(collector.ready)),
                    samples_total=plan.num_samples,
                    rows=totals.rows,
                    rejects=sum(totals.rejects.values()),
                    failed=len(dispatcher.attempts.failed),
                    workers=sum(slot.attached for slot in dispatcher.slots),
                    limited_by=clock.limited_by(now - self.working_since),
                )
            )

        return tick

    def _summary(
        self, plan: Plan, force: Workforce, dispatcher: Dispatcher, collector: Collector, clock: StageClock
    ) -> Summary:
        worked_s = time.monotonic() - self.working_since
        totals = collector.totals
        tidy_side_tables(self.tables, self.lease)
        failed = dispatcher.attempts.failed
        left = len(plan.todo) - totals.units - len(failed)
        interrupted = dispatcher.draining and left > 0
        whole = not failed and left <= 0
        seen = finish_table(self.tables, self.lease, publish=self.options.publish and whole, say=self.progress.phase)
        notes = [f"stopped early; {left} units are left"] if interrupted else []
        notes += seen.notes(publish=self.options.publish, whole=whole, hint=self.options.publish_hint())
        return Summary(
            run=self.lease.run,
            table=f"{self.tables.database}/{self.tables.name}",
            units=totals.units,
            seen=totals.seen,
            rows=totals.rows,
            rejects=dict(sorted(totals.rejects.items())),
            unread=dict(sorted(totals.unread.items())),
            unread_first=dict(sorted(totals.unread_first.items())),
            failed_units=failed_units(failed),
            left_out=self._all_left_out(totals),
            left_out_listed=self.left_out,
            embedded=totals.embedded,
            filled={name: totals.filled.get(name, 0) for name in self._asked_for()},
            already_done=len(plan.done),
            aliases=totals.aliases,
            replaced_units=totals.retired_units - totals.moved_units,
            moved_units=totals.moved_units,
            moved_rows=totals.moved_rows,
            healed_units=self.healed,
            seconds=round(time.monotonic() - self.started, 3),
            startup_s=round(self.working_since - self.started, 3),
            samples_per_s=rate(totals.seen, worked_s),
            limited_by=clock.limited_by(worked_s),
            commits=totals.commits,
            first_rows_s=round(totals.first_commit_at - (time.time() - (time.monotonic() - self.started)), 3)
            if totals.first_commit_at
            else None,
            table_version=seen.newest,
            live=seen.live,
            live_rows=seen.live_rows,
            workers=force.shape.num,
            device=self.device,
            estimated_samples_per_s=round(self.estimate.samples_per_s * force.shape.num, 1) if self.estimate else None,
            estimate_basis=self.estimate.basis if self.estimate else "",
            source_bytes=collector.totals.source_bytes,
            worker_restarts=dispatcher.restarts,
            peak_worker_bytes=clock.peak_rss_bytes,
            driver_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            drained=dispatcher.draining,
            interrupted=interrupted,
            resume=self.options.resume if interrupted else "",
            note="; ".join(notes),
        )

    def _all_left_out(self, totals: Totals) -> LeftOut:
        found = dict(totals.left_out)
        merge(found, self.left_out)
        return found

    def _asked_for(self) -> list[str]:
        """Columns that the job file wants filled, and that may match nothing."""
        source = self.job.source
        caption, tags = source.caption is not None, self.vocabulary is not None
        return [*(["caption"] if caption else []), *(["tags"] if tags else []), *source.keep]
