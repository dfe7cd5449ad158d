"""Before the first unit: the lease, workers that agree with the reference, and a table as the job needs it."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing import head_columns, heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.planning.estimate import Estimate, Worker, estimate
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.table import compat, heads
from clipmill.jobs.table.ledger import Ledger
from clipmill.schemas import columns
from clipmill.schemas.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The table as the run found it, and what it may expect. `healed`: units that an earlier run had not entered."""

    latest: Ledger
    healed: int
    estimate: Estimate | None  # of one worker


def claim(context: RunContext, force: Workforce) -> None:
    """The lease, unless it is held already, and under it the check that the table goes with this job and model. Raises
    UserError, LeaseHeld."""
    tables, progress = context.tables, context.progress
    if not context.lease.epoch:
        tables.ensure_side_tables()
        context.take_lease()
    rows = tables.open(missing_ok=True)
    if rows is not None:  # perhaps another run made it since this one looked
        compat.check_table(rows.schema, context.job, context.vocabulary, force.fingerprint)
        heads.check_table(rows.schema, context.heads)
        mine = context.vocabulary
        if mine is not None and compat.with_thresholds(mine, rows.schema).thresholds != mine.thresholds:
            raise UserError("the table's tags were calibrated while this run began", "run the command again")
    heads.check_fit(context.heads, force.fingerprint)
    tables.ensure_side_tables()  # under the lease: an older clipmill's get the columns they lack
    facts, fingerprint = force.facts, force.fingerprint
    progress.phase(f"{fingerprint.model} on {facts.device}, batches of {facts.batch_size}")
    if note := fingerprint.provenance.get("precision_note"):
        progress.say(f"the vectors are computed in fp32, which is slower: {note}")


def open_table(context: RunContext, force: Workforce, table_id: str) -> Opened:
    """Check vectors against the reference, compute labels; heal the table, or create it with this id."""
    tables, lease = context.tables, context.lease
    gpus = force.shape.gpus if force.facts.device != "cpu" else 0.0
    expected = estimate(context.job, tables, Worker(gpus=gpus, cores=force.facts.threads))
    force.self_check(tables, lease.run)
    force.label_vectors()
    latest: Ledger = {}
    healed = 0
    if tables.exists():
        lease.fence()
        latest, healed = heal.heal(tables, Committer(tables, lease))
        if context.job.source.orientation is not None:
            tables.add_columns("", [columns.ORIENTATION_FIELD])
        head_columns.refresh(tables, lease, context.heads, context.progress.phase)
    else:
        tables.create("", _schema(context, force, table_id))
        lease.fence()
    return Opened(latest=latest, healed=healed, estimate=expected)


def _schema(context: RunContext, force: Workforce, table_id: str) -> Any:
    from clipmill.jobs.table.lancedb_function import embedding_functions_metadata

    hashes = [columns.PHASH] if context.job.phash else []
    schema = columns.rows_schema(
        dim=force.fingerprint.dim,
        keep=context.job.source.keep_types,
        fingerprint_json=force.fingerprint.to_json(),
        vocabulary_json=force.vocabulary_json,
        thumbnails=context.job.thumbnails,
        more=pa.schema([*hashes, *heads.fields(context.heads, force.fingerprint)]),
    )
    if context.job.source.orientation is not None:
        schema = schema.append(columns.ORIENTATION_FIELD)
    mine = {columns.TABLE_ID_KEY: table_id.encode()}
    return schema.with_metadata({**embedding_functions_metadata(force.fingerprint), **mine})
