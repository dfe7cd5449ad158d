"""Counts of values over the rows that pass a filter, or over the best hits of a search.

One pass over the column, in batches; memory is the batch and the distinct values seen.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.damaged import naming_damage
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.open import Query, Table

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
    predicate, snapshot = table.predicate(query), table.snapshot

    def count() -> Facet:
        with naming_damage(snapshot.dataset, predicate), filter_errors(predicate):
            batches = snapshot.dataset.scanner(columns=[column], filter=predicate, batch_size=65_536).to_batches()
            return _count(column, (batch.column(column) for batch in batches), MAX_DISTINCT)

    # Remembered whole: somebody who types the name of a tag asks again at every letter.
    found: Facet = snapshot.counted.get_or_make((predicate, column), count)
    return replace(found, values=found.values[:top])


def parts(
    facet: Facet,
    *,
    top: int,
    containing: str = "",
    facet_of: Mapping[str, str] | None = None,
    known: Iterable[str] = (),
) -> dict[str, Facet]:
    """The values that contain some text, whatever its case, in the groups that `facet_of` puts them in; by group, in
    its order, those it does not know last and under "". Best first are then the value itself and those that begin with
    the text. `known`: values that are listed with 0 rows where they were not counted. `top`: of each group."""
    text = containing.casefold()
    counts = {**dict.fromkeys(known, 0), **dict(facet.values)}
    groups: dict[str, list[tuple[str, int]]] = {group: [] for group in [*(facet_of or {}).values(), ""]}
    for value, rows in counts.items():
        if text in value.casefold():
            groups[(facet_of or {}).get(value, "")].append((value, rows))

    def order(item: tuple[str, int]) -> tuple[bool, bool, int, str]:
        value = item[0].casefold()
        return value != text, not value.startswith(text), -item[1], item[0]

    return {
        group: replace(facet, values=sorted(values, key=order)[:top], distinct=len(values))
        for group, values in groups.items()
        if values
    }


def _check(table: Table, column: str) -> None:
    kind = table.schema.field(column).type if column in table.schema.names else None
    value = kind.value_type if kind is not None and pa.types.is_list(kind) else kind
    if value is None or not (pa.types.is_string(value) or pa.types.is_boolean(value) or pa.types.is_integer(value)):
        known = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_list(f.type)]
        said = f"{column} is no column whose values can be counted"
        raise table.snapshot.newer.unknown(said, f"try one of: {', '.join(known)}")


def _count(column: str, arrays: Iterable[pa.Array], top: int) -> Facet:
    counts: Counter[str] = Counter()
    rows, truncated = 0, False
    for array in arrays:
        rows += len(array)
        values = array.flatten() if pa.types.is_list(array.type) else array.drop_null()
        for entry in pc.value_counts(values):
            counts[str(entry["values"].as_py())] += entry["counts"].as_py()
        if len(counts) > MAX_DISTINCT:
            truncated = True
            counts = Counter(dict(counts.most_common(MAX_DISTINCT // 2)))
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return Facet(column=column, values=best, rows=rows, distinct=len(counts), truncated=truncated)
