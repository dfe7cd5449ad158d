"""What lies there to import: files found, their headers and footers read, and each named by its content as a unit."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipmill.jobs.importing.columns import Chosen, choose
from clipmill.jobs.importing.npy import Matrix, open_matrix
from clipmill.jobs.importing.request import ImportOptions
from clipmill.jobs.table.tables import lance_module
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.units import IMPORTED, SourceObject, UnitNames, WorkUnit
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.tables.parquet import raise_if_the_stores
from clipmill.workers.store.storage import absolute_uri, has_any, lance_options, list_objects, open_stream
from clipmill.workers.store.uri import lance_address

NPY, PARQUET, LANCE = "clip-retrieval", "parquet", "lance"
# clip-retrieval 2.45.0, clip_inference/writer.py: img_emb/img_emb_N.npy, text_emb/text_emb_N.npy and
# metadata/metadata_N.parquet, N padded with zeros; a partition that was empty wrote nothing.
_PARTS = {"img_emb": ".npy", "text_emb": ".npy", "metadata": ".parquet"}
_PART = re.compile(r"(.*)/(img_emb|text_emb|metadata)/\2_(\w+)(\.npy|\.parquet)")
_ENDINGS = (".parquet", ".parq", ".pq")
_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one unit reads: a matrix (and one of texts) with the metadata beside it, a parquet file, or a fragment."""

    unit: WorkUnit
    form: str
    vectors: Matrix | None = None
    texts: Matrix | None = None
    metadata: SourceObject | None = None

    @property
    def rows(self) -> int:
        return self.unit.num_samples or 0

    def where(self, place: int) -> str:
        """A row as a person finds it."""
        name = self.unit.uri.rpartition("/")[2] + (f" fragment {self.unit.start}" if self.unit.start else "")
        return f"{name} row {place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    form: str
    chosen: Chosen
    pieces: tuple[Piece, ...]


def find(options: ImportOptions, storage: Storage) -> Found:
    """Raises UserError where nothing there can be imported, or files that belong together do not fit."""
    place = options.vectors.rstrip("/") or "/"
    for lance in (place, f"{place}.lance"):
        if not lance.lower().endswith(_ENDINGS) and has_any(f"{lance}/_versions/", storage):
            return _of_lance(absolute_uri(lance), options, storage)
    items = [item for item in list_objects(options.vectors, storage) if item.size_bytes]
    parts = [(match, item) for item in items if (match := _PART.fullmatch(item.uri)) and match[4] == _PARTS[match[2]]]
    if any(match[2] == "img_emb" for match, _ in parts):
        return _of_npy(parts, options, storage)
    tables = [item for item in items if item.uri.lower().endswith(_ENDINGS)]
    if not tables:
        raise UserError(
            f"nothing to import at {options.vectors}",
            "a folder with img_emb/img_emb_N.npy and metadata/metadata_N.parquet, parquet files, or a Lance table",
        )
    return _of_parquet(tables, options, storage)


def _names(chosen: Chosen, options: ImportOptions) -> UnitNames:
    """What decides the rows enters a unit's id, so that other options make other units of the same files."""
    return UnitNames({"import": asdict(chosen), "normalize": options.normalize, "texts": options.texts})


def _of_npy(parts: Sequence[tuple[re.Match[str], SourceObject]], options: ImportOptions, storage: Storage) -> Found:
    by_name: dict[tuple[str, str], dict[str, SourceObject]] = {}
    for match, item in parts:
        by_name.setdefault((match[1], match[3]), {})[match[2]] = item
    has_texts = options.texts and any("text_emb" in files for files in by_name.values())
    needed = ("img_emb", "metadata", *(("text_emb",) if has_texts else ()))
    for (root, number), files in by_name.items():
        if lacking := [name for name in needed if name not in files]:
            missing = f"{root}/{lacking[0]}/{lacking[0]}_{number}{_PARTS[lacking[0]]}"
            raise UserError(f"{missing} is missing, beside {next(iter(files.values())).uri}", "copy the folder again")
    first = next(iter(by_name.values()))["metadata"]
    schema, _ = _footer(first, storage)
    chosen = choose(schema, options.names, first.uri, vectors=False, texts=has_texts)
    named = _names(chosen, options)

    def piece(files: dict[str, SourceObject]) -> Piece:
        vectors = open_matrix(files["img_emb"], storage)
        texts = open_matrix(files["text_emb"], storage) if has_texts else None
        schema, rows = _footer(files["metadata"], storage)
        chosen.check(schema, files["metadata"].uri)
        for matrix in filter(None, (vectors, texts)):
            if matrix.rows != rows:
                raise UserError(
                    f"{matrix.item.uri} has {counted(matrix.rows, 'row')}, {files['metadata'].uri} has {rows:,}",
                    "they are not of one run, or one of them was cut off: which vector is whose is not known",
                )
        used = [files[name] for name in needed]
        etag = hashlib.sha256(json.dumps([one.etag for one in used]).encode()).hexdigest()[:32]
        unit = WorkUnit(
            unit_id=named(vectors.item.uri, etag, ""),
            format=IMPORTED,
            uri=vectors.item.uri,
            etag=etag,
            size_bytes=sum(one.size_bytes for one in used),
            num_samples=rows,
        )
        return Piece(unit=unit, form=NPY, vectors=vectors, texts=texts, metadata=files["metadata"])

    return Found(form=NPY, chosen=chosen, pieces=tuple(ordered_map(by_name.values(), piece, threads=_THREADS)))


def _of_parquet(items: Sequence[SourceObject], options: ImportOptions, storage: Storage) -> Found:
    schema, _ = _footer(items[0], storage)
    chosen = choose(schema, options.names, items[0].uri, vectors=True, texts=options.texts)
    named = _names(chosen, options)

    def piece(item: SourceObject) -> Piece:
        schema, rows = _footer(item, storage)
        chosen.check(schema, item.uri)
        unit = WorkUnit(
            unit_id=named(item.uri, item.etag, ""),
            format=IMPORTED,
            uri=item.uri,
            etag=item.etag,
            size_bytes=item.size_bytes,
            num_samples=rows,
        )
        return Piece(unit=unit, form=PARQUET, metadata=item)

    return Found(form=PARQUET, chosen=chosen, pieces=tuple(ordered_map(items, piece, threads=_THREADS)))


def _footer(item: SourceObject, storage: Storage) -> tuple[Any, int]:
    """Schema and number of rows of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise_if_the_stores(error)
            raise UserError(f"{item.uri} has no readable parquet footer: {str(error)[:100]}", "copy it again") from None
        return file.schema_arrow, int(file.metadata.num_rows)


def open_lance(uri: str, storage: Storage, version: int | None = None) -> Any:
    return lance_module().dataset(
        lance_address(uri), version=version, storage_options=lance_options(uri, storage) or None
    )


def _of_lance(uri: str, options: ImportOptions, storage: Storage) -> Found:
    """A unit for each fragment, named by its files: what appends, deletes and compactions leave alone is done."""
    dataset = open_lance(uri, storage)
    chosen = choose(dataset.schema, options.names, uri, vectors=True, texts=options.texts)
    named = _names(chosen, options)
    pieces = []
    for fragment in dataset.get_fragments():
        etag = hashlib.sha256(json.dumps(fragment.metadata.to_json(), sort_keys=True).encode()).hexdigest()[:32]
        start = str(fragment.fragment_id)
        unit = WorkUnit(
            unit_id=named(uri, etag, start),
            format=IMPORTED,
            uri=uri,
            etag=etag,
            size_bytes=0,
            start=start,
            end=str(dataset.version),
            num_samples=fragment.count_rows(),
        )
        pieces.append(Piece(unit=unit, form=LANCE))
    return Found(form=LANCE, chosen=chosen, pieces=tuple(pieces))
