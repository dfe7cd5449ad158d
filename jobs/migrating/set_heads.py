"""Scores of heads for a set beside the one in use: from the set's own vectors, once they are there. Nobody reads such a
column by name yet, so it is filled in place; `promote` gives it its name with the rest of the set."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing import head_columns
from clipmill.jobs.committing.derived import Derivation, Derived, Say, Step
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.tables import MAX_CONFLICTS, Tables
from clipmill.schemas.columns import set_column
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.heads import Head


def fill_heads(
    tables: Tables, lease: Lease, slug: str, heads: Sequence[Head], say: Say, step: Step = lambda _: None
) -> dict[str, int]:
    """Rows scored now, by head; `lease` is the fill lease. A column that is of another head is made anew. `step` is
    told before each commit (tests stop there)."""
    done = {}
    for head in heads:
        one = derived_scores(head, tables.open().schema, slug)
        schema = tables.open().schema
        if not one.is_current(schema):
            if one.names[0] in schema.names:
                step(f"drop_columns {one.names[0]}")
                _again(tables, lease, "drop_columns", one.names)
            step(f"add_columns {one.names[0]}")
            _again(tables, lease, "add_columns", one.fields)
        done[head.name] = Derivation(tables, lease, one, say, step).fill()
    return done


def derived_scores(head: Head, schema: pa.Schema, slug: str) -> Derived:
    return head_columns.derived(head, schema, set_column("vector", slug), name=set_column(head.name, slug))


def _again(tables: Tables, lease: Lease, change: str, columns: Any) -> None:
    """Whoever adds rows meanwhile conflicts with it."""
    for _ in range(MAX_CONFLICTS):
        lease.check()
        try:
            with writing(tables.rows):
                getattr(tables.open(), change)(columns)
            return
        except OSError as error:
            if not is_conflict(error):
                raise
    raise ClipmillError(
        f"the columns of heads could not be added: {MAX_CONFLICTS} tries met other commits",
        "run the command again when fewer rows are being added",
    )
