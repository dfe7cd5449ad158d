"""`clipmill drop TABLE --set SLUG`: the columns of a set that is not in use leave."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clipmill.jobs.committing.cleanup import clean
from clipmill.jobs.committing.lease import no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.querying.curve import CONFIG_KEY
from clipmill.jobs.table import sets
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import SET_COLUMNS, heads_of, set_column, sets_in, vocabularies_in
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage

DROPPING_KEY = "clipmill.dropping."  # in the config of the rows, then the slug: a drop that is not over
STEPS = ("before_drop", "after_drop", "after_cleanup")


def no_hook(step: str) -> None:
    assert step in STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """`bytes_freed`: by versions that were old enough. The rest is freed when the versions that still have the set are
    a week old, at the next nightly or `clipmill maintain`."""

    table: str
    set: str
    columns: list[str]
    version: int
    bytes_freed: int


def drop(
    table: str, slug: str, storage: Storage, *, say: Callable[[str], None], hook: Callable[[str], None] = no_hook
) -> Dropped:
    """Killed, the next call goes on. Raises UserError for the set in use and for none, LeaseHeld where a run or a fill
    is under way."""
    tables = Tables.at(table, storage)
    tables.open()
    with leased(tables, "drop", say) as (lease, _), no_fill_beside(lease, say):
        rows = tables.open()
        if slug not in sets_in(rows.schema) and slug == sets.slug_in_use(rows.schema):
            raise UserError(f"the set '{slug}' is in use", "promote another one first; a table has always one")
        columns = [set_column(base, slug) for base in [*SET_COLUMNS, *heads_of(rows.schema, slug)]]
        begun = DROPPING_KEY + slug
        if begun not in rows.config():
            if slug not in vocabularies_in(rows.schema):
                sets.fingerprint_of(rows.schema, slug)
            rows.update_config({begun: "yes"})
        hook("before_drop")

        def drop_those(rows: Any) -> list[str]:
            if there := [name for name in columns if name in rows.schema.names]:
                rows.drop_columns(there)
            return there

        there = tables.change(drop_those, what="the columns could not be dropped", check=lease.check)
        hook("after_drop")
        cleaned = clean(tables, lease, say=say, even_today=True)
        rows = tables.open()
        rows.update_config(
            {key: None for key in (begun, *(CONFIG_KEY + name for name in columns)) if key in rows.config()}
        )
        hook("after_cleanup")
        return Dropped(
            table=f"{tables.database}/{tables.name}",
            set=slug,
            columns=there,
            version=int(tables.open().version),
            bytes_freed=cleaned.size_bytes if cleaned else 0,
        )
