"""Scores of heads for a set beside the one in use: from the set's own vectors, once they are there. Nobody reads such a
column by name yet, so it is filled in place; `promote` gives it its name with the rest of the set."""

from collections.abc import Sequence
from operator import methodcaller

import pyarrow as pa

from clipmill.jobs.committing import head_columns
from clipmill.jobs.committing.derived import Derivation, Derived, Say, Step
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column
from clipmill.schemas.job.heads import Head

_NOT_MADE = "the columns of heads could not be added"


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
                tables.change(methodcaller("drop_columns", one.names), what=_NOT_MADE, check=lease.check)
            step(f"add_columns {one.names[0]}")
            tables.change(methodcaller("add_columns", one.fields), what=_NOT_MADE, check=lease.check)
        done[head.name] = Derivation(tables, lease, one, say, step).fill()
    return done


def derived_scores(head: Head, schema: pa.Schema, slug: str) -> Derived:
    return head_columns.derived(head, schema, set_column("vector", slug), name=set_column(head.name, slug))
