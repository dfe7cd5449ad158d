"""`clipmill export TABLE --to DIR`: what a query selects, as files that other programs read.

parquet         part-00000.parquet ...                                     every column asked for
webdataset      00000.tar ... with KEY.jpg, KEY.txt, KEY.json              the images themselves
clip-retrieval  img_emb/img_emb_0.npy, text_emb/..., metadata/...parquet   as `clip-retrieval index` expects it

Every file is written whole or not at all, and `_export.json` last: where it is, the export is complete. Memory is one
file's rows. Images that could not be read are left out, counted by reason and named in `_rejects.jsonl`.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.jobs.querying.filters import conjunction, filter_errors, ids_predicate
from clipmill.jobs.querying.open import Query, Table
from clipmill.jobs.table.errors import check_folder
from clipmill.jobs.table.originals import COLUMNS, Originals, why
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError
from clipmill.schemas.plain import plain
from clipmill.schemas.words import counted
from clipmill.workers.decode.sniff import sniff

Format = Literal["parquet", "webdataset", "clip-retrieval"]
MARKER = "_export.json"
REJECTS = "_rejects.jsonl"
ROWS_PER_FILE = {"parquet": 20_000, "webdataset": 1_000, "clip-retrieval": 100_000}
FETCH_THREADS = 8
_SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"}
_IDS_AT_A_TIME = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """`query`: which rows; with an example the nearest `k`, else all that pass its filters. `ids`: of those that pass,
    only these; not with an example. `columns`: of parquet; None: all but vectors and thumbnails. `rows_per_file`: None:
    by format. `float32`: vectors in it instead of the table's float16, which some programs refuse or add up in.
    `allow_sources`: places beside the table's own source that images may be read from, see
    `jobs.table.originals`."""

    to: str
    format: Format = "parquet"
    query: Query = field(default_factory=Query)
    ids: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    rows_per_file: int | None = None
    float32: bool = False
    allow_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """`missing`: images that could not be read (webdataset only), by reason in `missing_by_reason`. `unknown_ids`: of
    the ids asked for, those that no row has."""

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
        parts = [part.replace("are cannot", "cannot") for part in parts]
        if self.missing:
            parts.append(f"they are named in {self.to.rstrip('/')}/{REJECTS}")
        if self.unknown_ids:
            parts.append(f"{self.unknown_ids:,} of the ids asked for are in no row")
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
    if options.float32 and not any(_is_half(table.schema.field(n).type) for n in _columns(table, options)):
        raise UserError(
            "--float32 is of vectors, and none is exported", "name them, such as --column id --column vector"
        )
    storage = storage or table.storage
    _check_empty(options.to, storage)
    rows, files = 0, 0
    missing: list[dict[str, str]] = []
    write = {"parquet": _parquet, "webdataset": _webdataset, "clip-retrieval": _clip_retrieval}[options.format]
    originals = Originals(Tables.at(table.uri, table.storage), options.allow_sources)
    for part in _parts(table, options):
        part = _widened(part) if options.float32 else part
        left_out = write(_Part(table, part, originals), files, options.to, storage)
        missing += left_out
        rows += len(part) - len(left_out)
        files += len(part) > len(left_out)
        tell(f"{counted(rows, 'row')} in {counted(files, 'file')}")
    if missing:
        _put(options.to, REJECTS, "".join(json.dumps(m, ensure_ascii=False) + "\n" for m in missing).encode(), storage)
    report = ExportReport(
        table=table.uri,
        version=table.version,
        to=options.to,
        format=options.format,
        rows=rows,
        files=files,
        missing=len(missing),
        missing_by_reason=dict(Counter(one["reason"] for one in missing)),
        unknown_ids=_unknown_ids(table, options),
    )
    _put(options.to, MARKER, json.dumps(asdict(report), indent=1).encode(), storage)
    return report


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one file, of which table, and where their images are."""

    table: Table
    rows: pa.Table
    originals: Originals


def _check_empty(to: str, storage: Storage) -> None:
    from clipmill.workers.store.storage import list_objects

    check_folder(to)
    found = next(iter(list_objects(to.rstrip("/") + "/", storage)), None) if _exists(to) else None
    if found is not None:
        raise UserError(f"{to} already holds files, such as {found.uri}", "choose an empty --to")


def _exists(to: str) -> bool:
    from pathlib import Path

    return "://" in to or Path(to).exists()


def _put(to: str, name: str, data: bytes, storage: Storage) -> None:
    from clipmill.workers.store.storage import put_bytes

    put_bytes(f"{to.rstrip('/')}/{name}", data, storage)


def _columns(table: Table, options: ExportOptions) -> list[str]:
    if options.format == "webdataset":
        return list(dict.fromkeys((*table.snapshot.default_columns(), *COLUMNS)))
    if options.format == "clip-retrieval":
        vectors = [name for name in ("vector", "caption_vector") if name in table.schema.names]
        return [*table.snapshot.default_columns(), *vectors]
    return list(table.snapshot.check_columns(options.columns or table.snapshot.default_columns()))


def _parts(table: Table, options: ExportOptions) -> Iterator[pa.Table]:
    """The rows to write, a file's worth at a time."""
    size = options.rows_per_file or ROWS_PER_FILE[options.format]
    columns = _columns(table, options)
    if len(options.query.positive):
        found = table.run(replace(options.query, columns=tuple(columns)))
        yield from (found.slice(start, size) for start in range(0, len(found), size))
        return
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in _batches(table, options, columns, size):
        while count + len(batch) >= size:
            head = batch.slice(0, size - count)
            yield pa.Table.from_batches([*held, head])
            batch, held, count = batch.slice(len(head)), [], 0
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield pa.Table.from_batches(held)


def _id_predicates(options: ExportOptions) -> list[str]:
    """Each id once, some thousand in a filter."""
    ids = list(dict.fromkeys(options.ids or ()))
    return [ids_predicate(ids[n : n + _IDS_AT_A_TIME]) for n in range(0, len(ids), _IDS_AT_A_TIME)]


def _unknown_ids(table: Table, options: ExportOptions) -> int:
    """Those that no row has. Whom the query's filters leave out is known."""
    known = sum(int(table.snapshot.dataset.count_rows(one)) for one in _id_predicates(options))
    return len(set(options.ids or ())) - known


def _batches(table: Table, options: ExportOptions, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
    predicate = table.predicate(options.query)
    filters = [predicate]
    if options.ids is not None:
        filters = [conjunction([predicate, one]) for one in _id_predicates(options)]
    for one in filters:
        with filter_errors(one):
            yield from table.snapshot.dataset.scanner(
                columns=columns, filter=one, batch_size=min(size, 4096), scan_in_order=True
            ).to_batches()


def _is_half(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type))


def _widened(rows: pa.Table) -> pa.Table:
    """Vectors of float16 as float32, which is exact."""
    fields = [
        field.with_type(pa.list_(pa.float32(), field.type.list_size)) if _is_half(field.type) else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(fields, metadata=rows.schema.metadata))


def _parquet(part: _Part, number: int, to: str, storage: Storage) -> list[dict[str, str]]:
    out = io.BytesIO()
    pq.write_table(part.rows.replace_schema_metadata(None), out, compression="zstd")
    _put(to, f"part-{number:05d}.parquet", out.getvalue(), storage)
    return []


def _clip_retrieval(part: _Part, number: int, to: str, storage: Storage) -> list[dict[str, str]]:
    """Vectors as (N, D) and the rest beside them, row by row. A row without a vector is a row of zeros,
    which is near nothing, because clip-retrieval matches its files by position."""
    names = {"vector": "img_emb", "caption_vector": "text_emb"}
    for column, folder in names.items():
        if column in part.rows.column_names:
            vectors = _npy(part.rows[column], part.table.snapshot.dim(column))
            _put(to, f"{folder}/{folder}_{number}.npy", vectors, storage)
    metadata = part.rows.drop_columns([c for c in names if c in part.rows.column_names])
    metadata = metadata.append_column("image_path", metadata["uri"])
    out = io.BytesIO()
    pq.write_table(metadata.replace_schema_metadata(None), out, compression="zstd")
    _put(to, f"metadata/metadata_{number}.parquet", out.getvalue(), storage)
    return []


def _npy(column: pa.ChunkedArray, dim: int) -> bytes:
    array = np.zeros((len(column), dim), dtype=column.type.value_type.to_pandas_dtype())
    valid = np.asarray(column.is_valid())
    if valid.any():
        array[valid] = np.asarray(column.drop_null().combine_chunks().flatten()).reshape(-1, dim)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _webdataset(part: _Part, number: int, to: str, storage: Storage) -> list[dict[str, str]]:
    """One tar. Keys are running numbers, because ids may hold dots and slashes, which mean something in a tar; the
    id is in the JSON."""
    rows = part.rows.to_pylist()
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        images = list(pool.map(lambda row: _image(row, part.originals), rows))
    missing = []
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place, (row, image) in enumerate(zip(rows, images, strict=True)):
            if not isinstance(image, bytes):
                missing.append(
                    {"id": row["id"], "uri": row["uri"], "reason": why(image), "detail": image.message[:200]}
                )
                continue
            key = f"{number:05d}{place:05d}"
            _member(tar, f"{key}.{_SUFFIXES.get(sniff(image) or '', 'img')}", image)
            if row.get("caption") is not None:
                _member(tar, f"{key}.txt", str(row["caption"]).encode("utf-8", "replace"))
            _member(tar, f"{key}.json", json.dumps(plain(row), ensure_ascii=False).encode("utf-8", "replace"))
    if len(missing) < len(rows):
        _put(to, f"{number:05d}.tar", out.getvalue(), storage)
    return missing


def _image(row: dict[str, Any], originals: Originals) -> bytes | UserError:
    """The encoded image, or why there is none."""
    try:
        return originals.read(row)
    except UserError as error:
        return error


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
