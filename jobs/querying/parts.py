"""The rows of a table in parts: what `export` and `push` write a file of."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from clipmill.jobs.querying.damaged import naming_damage
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.table import Table

BATCH_ROWS = 4096


def chosen_columns(table: Table, names: Sequence[str]) -> list[str]:
    """Each once. Raises UserError for one that the table has not."""
    return list(table.snapshot.check_columns(tuple(names)))


def in_order(
    table: Table, columns: Sequence[str], predicate: str | None, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Rows that pass, in the table's order, some thousand at a time. Raises UserError for a filter that is wrong."""
    scanner = table.snapshot.dataset.scanner(
        columns=list(columns), filter=predicate, batch_size=min(batch_rows, BATCH_ROWS), scan_in_order=True
    )
    with naming_damage(table.snapshot.dataset, predicate), filter_errors(predicate):
        for batch in scanner.to_batches():
            yield pa.Table.from_batches([batch])


def first(batches: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """At most so many rows of them; None: all."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= min(left, len(batch))
        if not left:
            return


def in_parts(batches: Iterable[pa.Table], size: int, shard: int | None = None) -> Iterator[pa.Table]:
    """Tables of `size` rows; fewer at the end, and at the end of each `shard` of so many rows."""
    held: list[pa.Table] = []
    count = done = 0

    def wanted() -> int:
        return size if shard is None else min(size, shard - done % shard)

    for batch in batches:
        while count + len(batch) >= wanted():
            head = batch.slice(0, wanted() - count)
            yield pa.concat_tables([*held, head])
            done += count + len(head)
            batch, held, count = batch.slice(len(head)), [], 0
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield pa.concat_tables(held)


def is_half(kind: pa.DataType) -> bool:
    """Whether it is of vectors in float16."""
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type))


def widened(column: pa.Field) -> pa.Field:
    """Vectors of float16 as float32, which is exact."""
    return column.with_type(pa.list_(pa.float32(), column.type.list_size)) if is_half(column.type) else column
