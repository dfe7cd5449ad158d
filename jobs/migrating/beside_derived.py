"""Columns that follow from vectors beside those of the job: scores of a set's heads, tags of further vocabularies. Rows
that came since get them at the end of `embed` and of a night, from the stored vectors, under the fill lease.

Nothing but what the columns' metadata names is needed (`table.again`). Where that is not found, or is another now, the
rows stay without, and it is told: what the run did is whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.running.options import new_run_id
from clipmill.jobs.table import compat
from clipmill.jobs.table.heads import check_fit, without_scores
from clipmill.jobs.table.sets import fingerprint_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column, sets_in, vocabularies_in
from clipmill.schemas.errors import ClipmillError, LeaseHeld, LeaseLost, UserError
from clipmill.schemas.text.secrets import masked, named
from clipmill.schemas.text.words import counted

if TYPE_CHECKING:
    from clipmill.jobs.committing.derived import Derived
    from clipmill.workers.engine import Engine

Say = Callable[[str], None]
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """`new`: rows that got a value now. `left`: rows with a vector and without a value; `note` says why."""

    column: str
    new: int = 0
    left: int = 0
    note: str = ""


def late_columns(rows: Any) -> dict[str, int]:
    """Rows with a vector and without a value, by column; those that no row lacks are left out."""
    schema = rows.schema
    found = {
        set_column(head, slug): count for slug in sets_in(schema) for head, count in without_scores(rows, slug).items()
    }
    for slug in vocabularies_in(schema):
        column = set_column("tags", slug)
        if compat.stored_vocabulary(schema, column) is not None:
            found[column] = int(rows.count_rows(f"{column} IS NULL AND vector IS NOT NULL"))
    return {column: count for column, count in found.items() if count}


def followed_vector(schema: pa.Schema, column: str) -> str:
    """The column of the vectors that such a column's values follow from."""
    slug = column.partition("__")[2]
    return set_column("vector", slug) if slug in sets_in(schema) else "vector"


def of_model_in_use(schema: pa.Schema, column: str) -> bool:
    """Whether a night may fill it. A promotion leaves the tags of vocabularies beside on the model before."""
    if column.partition("__")[2] in sets_in(schema):
        return True
    return compat.tags_of_model(schema, column, compat.stored_fingerprint(schema))


def fill_columns(tables: Tables, command: str, say: Say, step: Step = lambda _: None) -> tuple[Followed, ...]:
    """Of every column that rows lack, what became of it; nothing is taken or loaded where none does. `step` is told
    before each commit (tests stop there)."""
    late = late_columns(tables.open())
    if not late:
        return ()
    lease = Lease(tables, new_run_id(), command, key=FILL_KEY)
    try:
        lease.take(on_wait=say)
    except LeaseHeld as error:
        note = f"a fill is under way: {error.message}"
        return tuple(_told(Followed(column=column, left=left, note=note), say) for column, left in late.items())
    lease.keep(say)
    try:
        return tuple(_filled(tables, lease, column, say, step) for column in late)
    finally:
        lease.release(say)


def _filled(tables: Tables, lease: Lease, column: str, say: Say, step: Step) -> Followed:
    from clipmill.jobs.committing.derived import Derivation  # as all that makes a column: only where rows lack one

    new, note = 0, ""
    try:
        new = Derivation(tables, lease, _derived(tables, column), say, step).fill()
    except LeaseLost as error:
        note = f"another fill took over: {error.message}"
    except ClipmillError as error:
        note = masked(error.message)
    except Exception as error:  # noqa: BLE001 - what the run did is whole, whatever keeps this column from it
        note = named(error)
    return _told(Followed(column=column, new=new, left=late_columns(tables.open()).get(column, 0), note=note), say)


def _told(one: Followed, say: Say) -> Followed:
    if one.left:
        rows = counted(one.left, "row has", "rows have")
        say(f"{rows} no value in {one.column}: {one.note or 'they came meanwhile'}")
    return one


def _derived(tables: Tables, column: str) -> "Derived":
    from clipmill.jobs.migrating.retag import derived_tags
    from clipmill.jobs.migrating.set_heads import derived_scores
    from clipmill.jobs.table.again import head_again, tagger_again

    schema = tables.open().schema
    slug = column.partition("__")[2]
    if slug in sets_in(schema):
        head = head_again(tables, schema, column)
        check_fit([head], fingerprint_of(schema, slug))
        return derived_scores(head, schema, slug)
    fingerprint = compat.stored_fingerprint(schema)
    stored = compat.stored_vocabulary(schema, column) or {}
    if not of_model_in_use(schema, column):
        raise UserError(
            f"nothing says that the tags in {column} are of the vectors in use: a set was promoted since, or an older "
            "clipmill made them",
            f"clipmill retag TABLE --vocabulary FILE --as {slug}",
        )

    def engine() -> "Engine":
        from clipmill.jobs.querying.encoder import engine_for  # loads torch and the model

        return engine_for(fingerprint)

    tagger = tagger_again(tables, schema, column, fingerprint, engine)
    return derived_tags(tagger, stored, (column, set_column("tag_scores", slug)))
