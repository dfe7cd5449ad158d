"""`clipmill reembed TABLE --model M`: a set of another model beside the one in use, filled by the same actors.

Plan → fill lease → connect → load the model → add the columns → passes over what is not filled → index. Running it
again goes on where it stopped; what is filled is seen in the table.
"""

import contextlib
import json
import time
from dataclasses import dataclass, field, replace

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.fill import Filled, Filler
from clipmill.jobs.migrating.passes import Passes
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
from clipmill.jobs.running.actors.workforce import Workforce, loaded_workforce
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.meter import idle
from clipmill.jobs.running.options import Options, new_run_id
from clipmill.jobs.running.summary import rate
from clipmill.jobs.table import compat, heads, memory, sets
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.progress import Progress
from clipmill.schemas.columns import UNSEEN_HASH, set_column, set_fields, sets_in, table_id
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.secrets import named
from clipmill.schemas.text.words import counted
from clipmill.workers.naming import names as model_names


@dataclass(frozen=True, kw_only=True)
class Reembedded:
    """`filled + failed + left == table_rows`: of the set as it is now, with `reasons` of the failed; `rows` and
    `rejects` are of this run. `imported`: of the failed, rows that were imported and whose pictures nobody vouched
    for."""

    run: str
    table: str
    set: str
    model: str = ""
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    table_rows: int = 0
    filled: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    left: int = 0
    imported: int = 0
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
            options=Options(
                address=options.address, command=COMMAND, num_cpus=options.num_cpus, metrics=options.metrics
            ),
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

    def run(self) -> Reembedded:
        self.progress.phase("looking for rows to fill")
        found = look(self.tables, self.tables.open(), self.slug, self.options)
        if not found.units and not found.refused and self.slug in sets_in(self.tables.open().schema):
            self._score(sets.fingerprint_of(self.tables.open().schema, self.slug))
            idle(self.context)
            return self._whole(self._summary(None))
        self.progress.say(f"{counted(found.rows, 'row')} to fill, in {counted(len(found.units), 'fragment')}")
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
        from clipmill.schemas.text.plain import plain

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
            passes = Passes(self.context, self.options, force, filler)
            passes.run()
            self._score(fingerprint)
            summary = self._whole(self._summary(passes))
        except BaseException as error:
            with contextlib.suppress(OSError, ClipmillError):  # the error is what has to be told
                self._log("fill-failed", named(error))
            raise
        self._log("fill-finished", json.dumps(plain(summary)))
        return summary

    def _log(self, event: str, detail: str) -> None:
        mine = table_id(self.tables.open().schema)
        self.tables.log_run(self.lease.run, COMMAND, event, detail, table_id=mine)

    def _whole(self, summary: Reembedded) -> Reembedded:
        """With the indices that a set has once no row is left, as its size asks for: an earlier call may have been
        killed before them."""
        if summary.left or summary.interrupted or not self.options.index:
            return summary
        from clipmill.jobs.migrating.set_index import build_set_index

        return replace(summary, index=build_set_index(self.tables, self.slug, tell=self.progress.phase))

    def _imported(self) -> int:
        where = f"{set_column('vector', self.slug)} IS NULL AND starts_with(image_hash, '{UNSEEN_HASH}')"
        return int(self.tables.open().count_rows(where))

    def _summary(self, passes: Passes | None) -> Reembedded:
        """None: there was nothing to fill."""
        done = passes.filler.done if passes else Filled()
        failed_units = passes.failed if passes else []
        is_interrupted = passes is not None and passes.interrupted
        since_s = passes.since_s if passes else self.context.started_s
        found = sets.coverage(self.tables, self.tables.open(), self.slug)
        return Reembedded(
            run=self.lease.run if passes else "",
            table=f"{self.tables.database}/{self.tables.name}",
            set=self.slug,
            model=f"{found.model} {found.pretrained}".strip(),
            rows=done.rows,
            rejects=dict(sorted(done.rejects.items())),
            table_rows=found.rows,
            filled=found.filled,
            failed=found.failed,
            reasons=found.rejects,
            left=found.left,
            imported=self._imported(),
            failed_units=failed_units,
            redone_fragments=done.again,
            commits=done.commits,
            requests=done.requests,
            bytes_read=done.source_bytes,
            image_bytes=done.image_bytes,
            seconds=round(time.monotonic() - self.context.started_s, 3),
            startup_s=round(since_s - self.context.started_s, 3),
            rows_per_s=rate(done.rows, passes.until_s - since_s) if passes else 0.0,
            limited_by=passes.limited_by if passes else "",
            interrupted=is_interrupted,
            resume=self.options.resume if is_interrupted or found.left else "",
        )
