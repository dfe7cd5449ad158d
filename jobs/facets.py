"""Counts of values over the rows that pass a filter, or over the best hits of a search.

One pass over the column, in batches; memory is the batch and the distinct values seen.
"""

from collections import Counter
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.query import Query, Table
from jobs.querying.filters import filter_errors
from schemas.errors import UserError

MAX_DISTINCT = 100_000  # beyond this a column is no facet


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """`values`: (value, rows) by descending count, ties by value. `rows`: how many were looked at. `distinct`: values
    seen; with `truncated` there were more than `MAX_DISTINCT`, and rare ones may be missing."""

    column: str
    values: list[tuple[str, int]]
    rows: int
    distinct: int
    truncated: bool = False


def facets(
    table: Table, query: Query | None = None, *, columns: tuple[str, ...] = ("tags",), top: int = 50, hits: int = 0
) -> list[Facet]:
    """Count the values of each column.

    `hits`: 0 counts every row that passes the query's filters; N counts the N best hits of the query, which then
    needs an example. `top`: values returned per column. Raises UserError for a column that is no facet.
    """
    query = query or Query()
    for column in columns:
        _check(table, column)
    if not hits:
        return [_over_filtered(table, query, column, top) for column in columns]
    found = table.run(replace(query, columns=columns, k=hits, offset=0))
    return [_count(column, [found[column].combine_chunks()], top) for column in columns]


def _over_filtered(table: Table, query: Query, column: str, top: int) -> Facet:
    predicate = table.predicate(query)
    with filter_errors(predicate):
        batches = table.snapshot.dataset.scanner(columns=[column], filter=predicate, batch_size=65_536).to_batches()
        return _count(column, (batch.column(column) for batch in batches), top)


def _check(table: Table, column: str) -> None:
    kind = table.schema.field(column).type if column in table.schema.names else None
    value = kind.value_type if kind is not None and pa.types.is_list(kind) else kind
    if value is None or not (pa.types.is_string(value) or pa.types.is_boolean(value) or pa.types.is_integer(value)):
        known = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_list(f.type)]
        raise UserError(f"{column} is no column whose values can be counted", f"try one of: {', '.join(known)}")


def _count(column: str, arrays: object, top: int) -> Facet:
    counts: Counter[str] = Counter()
    rows, truncated = 0, False
    for array in arrays:  # type: ignore[attr-defined]
        rows += len(array)
        values = array.flatten() if pa.types.is_list(array.type) else array.drop_null()
        for entry in pc.value_counts(values):
            counts[str(entry["values"].as_py())] += entry["counts"].as_py()
        if len(counts) > MAX_DISTINCT:
            truncated = True
            counts = Counter(dict(counts.most_common(MAX_DISTINCT // 2)))
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return Facet(column=column, values=best, rows=rows, distinct=len(counts), truncated=truncated)
