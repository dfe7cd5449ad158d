"""What `clipmill reembed` is asked for, the job it makes of it, and what that will cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.jobs.migrating.fill import Hook, no_hook
from clipmill.jobs.migrating.fill_plan import FillPlan, Reading, plan_fill
from clipmill.jobs.planning.arithmetic import model_dim
from clipmill.jobs.planning.estimate import estimate
from clipmill.jobs.table import compat, heads, sets
from clipmill.jobs.table.originals import Originals, source_storage
from clipmill.jobs.table.runs import last_job
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import vocabulary_of
from clipmill.schemas.columns import set_column, sets_in, vocabularies_in
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Model, Storage
from clipmill.schemas.job.heads import Head
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.workers.naming import names as model_names
from clipmill.workers.tag import load_vocabulary

COMMAND = "reembed"


@dataclass(slots=True, kw_only=True)
class ReembedOptions:
    """`slug`: of the set, empty for one made of the model's name. `vocabulary`: where the table's cannot be found by
    its name. `again`: also rows that could not be filled before. `index`: build the set's index once it is whole."""

    model: Model
    slug: str = ""
    vocabulary: str | None = None
    allow_sources: tuple[str, ...] = ()
    again: bool = False
    index: bool = True
    address: str | None = None
    num_cpus: int | None = None
    price_per_gpu_hour: float | None = None
    lease_ttl_s: float = 30.0
    resume: str = ""
    hook: Hook = no_hook
    heads: tuple[Head, ...] = ()  # of the new model
    metrics: Path | None = None  # where the run's figures are kept, an absolute path


@dataclass(frozen=True, kw_only=True)
class ReembedPlan:
    """`failed`: rows that were tried before; `refused`: whose place may not be read. Rate, hours and dollars as in
    `clipmill plan`; `reading` says how the pictures are fetched, and why so."""

    table: str
    set: str
    exists: bool
    table_rows: int
    rows: int
    failed: int
    refused: int
    fragments: int
    reading: Reading
    samples_per_s: float | None
    limited_by: str | None
    basis: str | None
    worker_hours: float | None
    dollars: float | None


def job_for(tables: Tables, options: ReembedOptions) -> JobFile:
    """The table's last job with this model: its workers, limits and tags; its store as `source_storage` allows."""
    last = last_job(tables)
    kept = {name: last[name] for name in ("source", "workers", "limits", "commit") if name in last}
    if "source" not in kept:  # rows that no job made: only the address of the store is asked of it
        kept["source"] = {"format": "files", "uri": tables.database + "/"}
    schema = tables.open().schema
    stored = compat.stored_vocabulary(schema, _tags_column(schema, options))
    tags = {"top_k": stored["top_k"], "min_score": stored["min_score"]} if stored else {}
    try:
        job = JobFile.model_validate({**kept, "table": f"{tables.database}/{tables.name}", "tags": tags})
    except ValueError as error:
        raise UserError(f"the table's last job cannot be read: {error}", "run `clipmill embed` once more") from None
    plan = job.plan.model_copy(update={"price_per_gpu_hour": options.price_per_gpu_hour})
    model = model_names.absolute(options.model)
    return job.model_copy(update={"model": model, "storage": source_storage(tables), "plan": plan})


def _tags_column(schema: Any, options: ReembedOptions) -> str:
    """Whose vocabulary a fill goes on with: a set that is there keeps its own, a new one takes that of the tags in
    use."""
    slug = options.slug or sets.slug_of(options.model.name, options.model.pretrained)
    return set_column("tags", slug) if slug in sets_in(schema) else "tags"


def vocabulary_for(tables: Tables, options: ReembedOptions) -> Vocabulary | None:
    """The vocabulary of the set's tags, of a new one that of the tags in use. Raises UserError where it is not found,
    or another one is given."""
    schema = tables.open().schema
    column = _tags_column(schema, options)
    stored = compat.stored_vocabulary(schema, column)
    if stored is None:
        return None
    if options.vocabulary:
        found: Vocabulary | None = load_vocabulary(options.vocabulary, tables.storage)
    else:
        found = vocabulary_of(tables, schema, column)
    if found is None:
        raise UserError(
            f"the vocabulary '{stored['name']}' of the table's tags is not found here, or was changed since",
            "name its file: --vocabulary FILE",
        )
    compat.check_vocabulary(schema, found, column)
    return found


def plan_reembed(table: str, storage: Storage, options: ReembedOptions) -> ReembedPlan:
    """Reads the table and its ledger; writes nothing and loads nothing. Raises UserError as `reembed` would."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    job = job_for(tables, options)
    model_names.check(job.model.spec(), here=False)
    slug = slug_for(rows.schema, options)
    check_heads(rows.schema, options)
    found = look(tables, rows, slug, options)
    rated = estimate(job, tables, None)
    hours = round(found.rows / rated.samples_per_s / 3600, 3) if rated else None
    price = job.plan.price_per_gpu_hour
    return ReembedPlan(
        table=f"{tables.database}/{tables.name}",
        set=slug,
        exists=slug in sets_in(rows.schema),
        table_rows=int(rows.count_rows()),
        rows=found.rows,
        failed=found.failed,
        refused=len(found.refused),
        fragments=len(found.units),
        reading=found.reading,
        samples_per_s=rated.samples_per_s if rated else None,
        limited_by=rated.limited_by if rated else None,
        basis=f"{rated.basis}{'; by the model in use' if ' run ' in rated.basis else ''}" if rated else None,
        worker_hours=hours,
        dollars=round(hours * rated.gpus * price, 2) if hours is not None and rated and rated.gpus and price else None,
    )


def check_heads(schema: Any, options: ReembedOptions) -> None:
    """Before a cluster starts. Raises UserError for a head of another model than the new one, or that could not take
    its name at the promotion."""
    for head in options.heads:
        heads.check_free(schema, head)
    heads.check_new(options.heads, options.model, model_dim(options.model.name))


def slug_for(schema: Any, options: ReembedOptions) -> str:
    """Raises UserError for the set in use."""
    slug = sets.check_slug(options.slug or sets.slug_of(options.model.name, options.model.pretrained))
    if slug in vocabularies_in(schema):
        raise UserError(
            f"'{slug}' is the name of a vocabulary beside the one in use", "name the set otherwise: --set NAME"
        )
    in_use = compat.stored_fingerprint(schema)
    asked = (options.model.name, options.model.pretrained or "")
    if slug not in sets_in(schema) and asked == (in_use.model, in_use.pretrained):
        raise UserError(
            f"the table's vectors are of {in_use.model} {in_use.pretrained}".rstrip() + " already",
            "name another model; for changed weights under the same name give them a set of their own: --set NAME",
        )
    return slug


def look(tables: Tables, rows: Any, slug: str, options: ReembedOptions) -> FillPlan:
    failed: dict[tuple[str, str], str] = {}
    if slug in sets_in(rows.schema) and not options.again:
        failed = sets.failures(tables, rows, sets.fingerprint_of(rows.schema, slug))
    return plan_fill(rows, slug, Originals(tables, options.allow_sources), failed)
