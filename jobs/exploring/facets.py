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


def countable(schema: pa.Schema) -> list[str]:
    """Columns whose values can be counted: texts, whole numbers, true and false, and lists of them."""
    return [field.name for field in schema if _is_counted(field.type)]


def _is_counted(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_text or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _check(table: Table, column: str) -> None:
    if column not in (known := countable(table.schema)):
        said = f"{column} is no column whose values can be counted"
        raise table.snapshot.newer.unknown(said, f"try one of: {', '.join(known)}")


def _count(column: str, arrays: Iterable[pa.Array], top: int) -> Facet:
    counts: Counter[str] = Counter()
    rows, truncated = 0, False
    for array in arrays:
        rows += len(array)
        is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
        values = array.flatten() if is_list else array.drop_null()
        found = pc.value_counts(values)
        # As two lists: by entries of pyarrow it took twice the time, of which other threads get none.
        for value, rows_of_it in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
            counts[str(value)] += rows_of_it
        if len(counts) > MAX_DISTINCT:
            truncated = True
            counts = Counter(dict(counts.most_common(MAX_DISTINCT // 2)))
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return Facet(column=column, values=best, rows=rows, distinct=len(counts), truncated=truncated)
