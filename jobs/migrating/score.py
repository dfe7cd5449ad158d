"""`clipmill score TABLE --head FILE`: a head's score of every row as a column, from the stored vectors. No images, no
GPU. A column of another head is computed anew, and takes its name when all of it is there (`committing.derived`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing import head_columns
from clipmill.jobs.committing.derived import Derivation
from clipmill.jobs.committing.lease import no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.table import compat, heads, memory
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import FINGERPRINT_KEY
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage, refused_head_name
from clipmill.schemas.job.heads import Head, HeadFile
from clipmill.schemas.model import Fingerprint

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """`rows` of the table = `with_score` + `without_vector`, which have no score either. `written`: by this call; the
    others were there already. `least`, `mean` and `greatest` are of the whole column. `note`: where readers see
    another version still."""

    table: str
    column: str
    head: str
    rows: int
    with_score: int
    without_vector: int
    written: int
    least: float | None
    mean: float | None
    greatest: float | None
    note: str = ""


def read_head(name: str, file: str, storage: Storage, **given: Any) -> Head:
    """`given`: as in the job file's `heads:`. Raises UserError."""
    from clipmill.workers.heads import load_head

    if why := refused_head_name(name) if file else f"'{name}' is not NAME=FILE":
        raise UserError(why, "such as aesthetic and aesthetic.safetensors")
    return load_head(name, HeadFile.model_validate({"file": file, **given}), storage)


def score(
    table: str,
    head: Head,
    storage: Storage | None = None,
    *,
    source: str = "vector",
    say: Say = lambda _: None,
    step: Say = lambda _: None,
) -> ScoreReport:
    """Bring the column of `head` up to date: rows without a score get one, and all of them do where the column is of
    another head. `step` is told before each commit. Raises UserError where the head does not fit the vectors, or the
    column belongs to something else; LeaseHeld where somebody else writes."""
    tables = Tables.at(table, storage)
    schema = tables.open().schema
    check(schema, head, source)
    for note in heads.unsure([head]):
        say(note)
    memory.use_little()
    with leased(tables, "score", say) as (lease, _), no_fill_beside(lease, say):
        schema = tables.open().schema
        check(schema, head, source)
        derived = head_columns.derived(head, schema, source)
        before = heads.told(schema).get(head.name)
        if before is not None and not derived.is_current(schema):
            was = before.get("hash", "an older clipmill")
            say(f"{head.name} is of {before.get('file')} ({was}); computing it anew")
        written = Derivation(tables, lease, derived, say, step).all()
    now = tables.open()
    count, without = now.count_rows(), now.count_rows(f"{head.name} IS NULL")
    seen = readers(now)
    least, mean, greatest = head_columns.least_and_greatest(now, head.name)
    return ScoreReport(
        table=table,
        column=head.name,
        head=head.hash,
        rows=count,
        with_score=count - without,
        without_vector=without,
        written=written,
        least=least,
        mean=mean,
        greatest=greatest,
        note=seen.behind(table),
    )


def check(schema: pa.Schema, head: Head, source: str) -> None:
    """Raises UserError."""
    compat.stored_fingerprint(schema)  # is it clipmill's?
    field = schema.field(source) if source in schema.names else None
    if field is None or FINGERPRINT_KEY not in (field.metadata or {}):
        raise UserError(f"{source} is no vector column of clipmill's", "leave --source out for the image vectors")
    if why := refused_head_name(head.name):
        raise UserError(why, "choose another name")
    heads.check_free(schema, head)
    heads.check_fit([head], Fingerprint.from_json(field.metadata[FINGERPRINT_KEY].decode()))
