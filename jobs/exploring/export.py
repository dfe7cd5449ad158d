"""`clipmill export TABLE --to DIR`: what a query selects, as files that other programs read; `export_files` and
`export_json` write them.

Every file is written whole or not at all, and `_export.json` last: where it is, the export is complete and has rows.
Memory is one file's rows. What was asked for and is not there is counted by reason and named in `_rejects.jsonl`.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import pyarrow as pa

from clipmill.jobs.exploring.export_files import ClipRetrieval, EmbeddingAtlas, Files, Out, Parquet, WebDataset
from clipmill.jobs.exploring.export_json import Coco, FiftyOne
from clipmill.jobs.querying.filters import conjunction, ids_predicate
from clipmill.jobs.querying.open import Query, Table
from clipmill.jobs.querying.parts import chosen_columns, first, in_order, in_parts, is_half, widened
from clipmill.jobs.table.errors import check_folder
from clipmill.jobs.table.originals import Originals, place_columns
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted
from clipmill.workers.store.uri import split_uri

Format = Literal["parquet", "webdataset", "clip-retrieval", "embedding-atlas", "fiftyone", "coco"]
MARKER = "_export.json"
REJECTS = "_rejects.jsonl"
ROWS_PER_FILE: dict[Format, int] = {
    "parquet": 20_000,
    "webdataset": 1_000,
    "clip-retrieval": 100_000,
    "embedding-atlas": 10_000,
    "fiftyone": 1_000,
    "coco": 1_000,
}
_FILES: dict[Format, type[Files]] = {
    "parquet": Parquet,
    "webdataset": WebDataset,
    "clip-retrieval": ClipRetrieval,
    "embedding-atlas": EmbeddingAtlas,
    "fiftyone": FiftyOne,
    "coco": Coco,
}
_VECTORS: dict[Format, tuple[str, ...]] = {
    "clip-retrieval": ("vector", "caption_vector"),
    "embedding-atlas": ("vector",),
    "fiftyone": ("vector", "caption_vector"),
}
_IN_NO_ROW = "in no row"
_IDS_AT_A_TIME = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """`query`: which rows; with an example the nearest `k`, else all that pass its filters. `ids`: of those that pass,
    only these; not with an example. `limit`: of those the first so many; not with an example, whose `k` says it.
    `columns`: of parquet; None: all but vectors and thumbnails. `rows_per_file`: None: by format. `float32`: vectors in
    it instead of the table's float16, which some programs refuse or add up in; for embedding-atlas and FiftyOne they
    are so without it. `allow_sources`: places beside the table's own source that images may be read from, see
    `jobs.table.originals`."""

    to: str
    format: Format = "parquet"
    query: Query = field(default_factory=Query)
    ids: tuple[str, ...] | None = None
    limit: int | None = None
    columns: tuple[str, ...] | None = None
    rows_per_file: int | None = None
    float32: bool = False
    allow_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """`missing`: rows that are not there because their picture could not be read, or because they have no vector where
    one is needed, by reason in `missing_by_reason`. `unknown_ids`: of the ids asked for, those that no row has."""

    table: str
    version: int
    to: str
    format: str
    rows: int
    files: int
    missing: int = 0
    missing_by_reason: dict[str, int] = field(default_factory=dict)
    unknown_ids: int = 0

    @property
    def left_out(self) -> str:
        """What is not there although it was asked for, in one sentence; empty where nothing is missing."""
        parts = [f"{counted(n, 'image is', 'images are')} {reason}" for reason, n in self.missing_by_reason.items()]
        parts = [part.replace("is cannot", "cannot").replace("are cannot", "cannot") for part in parts]
        if self.unknown_ids:
            parts.append(f"{self.unknown_ids:,} of the ids asked for are in no row")
        if parts:
            parts.append(f"they are named in {self.to.rstrip('/')}/{REJECTS}")
        if not self.rows and not parts:
            parts.append("no row passes, so nothing was written")
        return "; ".join(parts)


def export(
    table: Table,
    options: ExportOptions,
    storage: Storage | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write the selected rows. Raises UserError where the destination already holds something."""
    if options.ids is not None and len(options.query.positive):
        raise UserError("an export is of the best hits or of a list of ids, not of both", "leave out --near or --ids")
    if options.limit is not None and (len(options.query.positive) or options.limit < 1):
        raise UserError("limit is of rows without an example, one and more", "the query's k says how many are nearest")
    if options.float32 and not any(is_half(table.schema.field(n).type) for n in _columns(table, options)):
        raise UserError(
            "--float32 is of vectors, and none is exported", "name them, such as --column id --column vector"
        )
    out = Out(options.to, storage or table.storage)
    _check_empty(out)
    dims = {name: table.snapshot.dim(name) for name in _VECTORS.get(options.format, ()) if name in table.schema.names}
    files = _FILES[options.format](out, Originals(Tables.at(table.uri, table.storage), options.allow_sources), dims)
    with closing(files):
        rows = _write(table, options, files, tell)
    unknown = _unknown_ids(table, options)
    report = ExportReport(
        table=table.uri,
        version=table.version,
        to=options.to,
        format=options.format,
        rows=rows,
        files=out.files,
        missing=len(files.left_out),
        missing_by_reason=dict(Counter(one["reason"] for one in files.left_out)),
        unknown_ids=len(unknown),
    )
    named = [*files.left_out, *({"id": one, "uri": "", "reason": _IN_NO_ROW, "detail": ""} for one in unknown)]
    if named:
        out.put(REJECTS, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in named).encode())
    if rows:  # else there is nothing of which it could say that it is whole
        out.put(MARKER, json.dumps(asdict(report), indent=1).encode())
    return report


def _write(table: Table, options: ExportOptions, files: Files, tell: Callable[[str], None]) -> int:
    rows, number = 0, 0
    for part in _parts(table, options):
        already = files.out.files
        files.write(_widened(part) if options.float32 or options.format == "embedding-atlas" else part, number)
        rows += len(part)
        number += files.out.files > already
        tell(f"{counted(rows - len(files.left_out), 'row')} in {counted(files.out.files, 'file')}")
    if rows > len(files.left_out):
        files.end()
    return rows - len(files.left_out)


def _check_empty(out: Out) -> None:
    from clipmill.workers.store.storage import list_objects

    check_folder(out.to)
    found = next(iter(list_objects(out.uri(""), out.storage)), None) if _exists(out.to) else None
    if found is not None:
        raise UserError(f"{out.to} already holds files, such as {found.uri}", "choose an empty --to")


def _exists(to: str) -> bool:
    scheme, path = split_uri(to)
    return scheme != "file" or os.path.exists(path)


def _columns(table: Table, options: ExportOptions) -> list[str]:
    if options.format == "parquet":
        return chosen_columns(table, options.columns or table.snapshot.default_columns())
    there = set(table.schema.names)
    wanted = [*table.snapshot.default_columns(), *place_columns(table.schema), *_VECTORS.get(options.format, ())]
    thumbnail = ["thumbnail"] if options.format == "embedding-atlas" else []
    return [name for name in dict.fromkeys([*wanted, *thumbnail]) if name in there]


def _parts(table: Table, options: ExportOptions) -> Iterator[pa.Table]:
    """The rows to write, a file's worth at a time."""
    size = options.rows_per_file or ROWS_PER_FILE[options.format]
    columns = _columns(table, options)
    if len(options.query.positive):
        return in_parts([table.run(replace(options.query, columns=tuple(columns)))], size)
    return in_parts(first(_batches(table, options, columns, size), options.limit), size)


def _id_predicates(options: ExportOptions) -> list[str]:
    """Each id once, some thousand in a filter."""
    ids = list(dict.fromkeys(options.ids or ()))
    return [ids_predicate(ids[n : n + _IDS_AT_A_TIME]) for n in range(0, len(ids), _IDS_AT_A_TIME)]


def _unknown_ids(table: Table, options: ExportOptions) -> list[str]:
    """Those that no row has, in their order. Whom the query's filters leave out is known."""
    left = dict.fromkeys(options.ids or ())
    for one in _id_predicates(options):
        for batch in table.snapshot.dataset.scanner(columns=["id"], filter=one).to_batches():
            for known in batch["id"].to_pylist():
                left.pop(known, None)
    return list(left)


def _batches(table: Table, options: ExportOptions, columns: list[str], size: int) -> Iterator[pa.Table]:
    predicate = table.predicate(options.query)
    filters = [predicate]
    if options.ids is not None:
        filters = [conjunction([predicate, one]) for one in _id_predicates(options)]
    for one in filters:
        yield from in_order(table, columns, one, batch_rows=size)


def _widened(rows: pa.Table) -> pa.Table:
    return rows.cast(pa.schema([widened(column) for column in rows.schema], metadata=rows.schema.metadata))
