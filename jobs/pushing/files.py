"""The files of the data set: rows and rejects, in parquet or Lance, the same bytes for the same version (but for the
names that Lance gives its files). Memory is one row group, and what Lance reads ahead."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.jobs.pushing.places import Places
from clipmill.jobs.pushing.request import PushOptions
from clipmill.jobs.querying.open import Query, Table
from clipmill.jobs.querying.parts import chosen_columns, in_order, in_parts, widened
from clipmill.jobs.table.errors import writing
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.text.words import counted

DATA, REJECTS = "data", "rejects"
ROWS_PER_GROUP = 10_000  # what a reader of a parquet file has to take at least
REJECT_COLUMNS = ("id", "uri", "reason", "detail")


@dataclass(kw_only=True)
class Written:
    rows: int = 0
    files: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # by licence, or by reason


def output_schema(table: Table, options: PushOptions) -> pa.Schema:
    """Of the table, not yet cleaned: the columns that are pushed, in its order, as wide as was asked."""
    schema, hidden = table.schema, {"thumbnail", "source_etag"}
    readable = set(table.snapshot.default_columns())
    names = options.columns or [n for n in schema.names if n not in hidden and (n in readable or _is_vector(schema, n))]
    chosen = [schema.field(name) for name in chosen_columns(table, names)]
    return pa.schema([widened(column) if options.float32 else column for column in chosen])


def _is_vector(schema: pa.Schema, name: str) -> bool:
    return pa.types.is_fixed_size_list(schema.field(name).type) and "__" not in name


def write_rows(
    table: Table, schema: pa.Schema, places: Places, options: PushOptions, folder: Path, *, tell: Callable[[str], None]
) -> Written:
    """Into `data/`. `license_column`: counted on the way."""
    done = Written()
    predicate = table.predicate(Query(where=options.where))
    total = table.snapshot.count(predicate)

    def batches() -> Iterator[pa.Table]:
        for batch in in_order(table, schema.names, predicate):
            rows = places.of_rows(batch.cast(schema))
            if options.license_column:
                done.counts.update(text or "" for text in rows[options.license_column].to_pylist())
            yield rows

    done.rows, done.files = _write(batches(), schema, total, options, folder / DATA, tell)
    return done


def write_rejects(tables: Tables, latest: Ledger, places: Places, options: PushOptions, folder: Path) -> Written:
    """Into `rejects/`; nothing where there are none."""
    done = Written()
    schema = pa.schema([(name, pa.string()) for name in REJECT_COLUMNS])
    names = list(REJECT_COLUMNS)
    total = sum(len(one) for one in counted_rejects(tables, ["reason"], latest=latest))

    def batches() -> Iterator[pa.Table]:
        for batch in counted_rejects(tables, names, latest=latest):
            found = pa.Table.from_batches([batch]).cast(schema)
            done.counts.update(found["reason"].to_pylist())
            yield places.of_rejects(found)

    if total:
        done.rows, done.files = _write(batches(), schema, total, options, folder / REJECTS, lambda _: None)
    return done


def _write(
    batches: Iterable[pa.Table],
    schema: pa.Schema,
    total: int,
    options: PushOptions,
    folder: Path,
    tell: Callable[[str], None],
) -> tuple[int, int]:
    """(rows, files). Whatever the sizes of `batches`, the files are the same."""
    folder.mkdir(parents=True)
    parts = in_parts(batches, min(ROWS_PER_GROUP, options.shard_rows), options.shard_rows)
    groups = _told((part.combine_chunks() for part in parts), total, options.shard_rows, tell)
    if options.form == "lance":
        return _write_lance(groups, schema, options, folder)
    files = -(-total // options.shard_rows)
    rows = 0
    with ExitStack() as stack:
        for group in groups:
            if rows % options.shard_rows == 0:
                stack.close()
                name = f"train-{rows // options.shard_rows:05d}-of-{files:05d}.parquet"
                # Pages are cut by content, so that of the next version only what changed is uploaded.
                writer = pq.ParquetWriter(folder / name, schema, compression="zstd", use_content_defined_chunking=True)
                stack.enter_context(writer)
            writer.write_table(group, row_group_size=len(group))
            rows += len(group)
    return rows, files


def _write_lance(groups: Iterator[pa.Table], schema: pa.Schema, options: PushOptions, folder: Path) -> tuple[int, int]:
    raised: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for group in groups:
                yield from group.to_batches()
        except BaseException as error:  # Lance would tell it as an OSError of its own, Ctrl-C too
            raised.append(error)
            raise

    uri = str(folder / "train.lance")
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    try:
        with writing(uri):
            made: Any = lance_module().write_dataset(
                reader, uri, max_rows_per_file=options.shard_rows, data_storage_version="stable"
            )
    except (OSError, ClipmillError):
        if raised:
            raise raised[0] from None
        raise
    return int(made.count_rows()), len(made.get_fragments())


def _told(groups: Iterable[pa.Table], total: int, shard: int, tell: Callable[[str], None]) -> Iterator[pa.Table]:
    """How far it is, after each file but the last."""
    done = 0
    for group in groups:
        yield group
        done += len(group)
        if done % shard == 0 and done < total:
            tell(f"{done:,} of {counted(total, 'row')}")
