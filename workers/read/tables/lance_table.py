"""A Lance table as a source: what is in it now, in slices of rows that are named by their content. An owner of lance.

A slice is some thousand places of one fragment. Its name is made of the files that hold the columns which the job reads
and of the rows that are deleted in it: rows that are added, another column or a deletion elsewhere rename nothing.
Compaction writes fragments anew, and so renames all that it touches; the plan knows
them again by their order.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import EmptySource, SourceChanged, UserError
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.tables.columns import has_paths, is_text
from clipmill.workers.read.tables.features import Features
from clipmill.workers.read.tables.table_rows import columns_of
from clipmill.workers.store import lance_log
from clipmill.workers.store.errors import table_errors
from clipmill.workers.store.storage import absolute_uri, has_any, lance_options
from clipmill.workers.store.uri import expand_braces, has_magic, lance_address, unescape

SLICE_ROWS = 10_000
_ROW = re.compile(r"fragment=(\d{1,10})&row=(\d{1,10})")
_CHANGED = "run again: it will be planned anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows at the places [start, stop) of a fragment; `num_rows` of them are there, the first of which is the row
    number `offset` of those that the fragment has. `num_bytes`: of its files, a share."""

    fragment: int
    start: int
    stop: int
    offset: int
    num_rows: int
    etag: str
    num_bytes: int


def named(uri: str) -> str:
    """The absolute URI of what `source.uri` names, which is no pattern. Raises UserError."""
    if has_magic(uri) or expand_braces(uri) != [uri]:
        raise UserError(
            f"source.uri {uri} is a pattern, and a Lance table is named whole",
            "list the tables one by one; a `[` in a name is written `[[]`",
        )
    return absolute_uri(unescape(uri.rstrip("/")))


def resolve(uri: str, storage: Storage) -> str:
    """The table's folder: `db/name` is LanceDB's way to say `db/name.lance`. Raises UserError, EmptySource."""
    whole = named(uri)
    for place in (whole, f"{whole}.lance"):
        if has_any(f"{place}/_versions/", storage):
            return place
    raise EmptySource(f"source.uri {uri} is no Lance table", "name its folder: s3://lake/db/images.lance")


def open_table(uri: str, storage: Storage, version: int | None = None) -> Any:
    """At `version`, where that is still there, else at the newest. Raises UserError, StoreUnavailable."""
    lance_log.quiet()
    import lance

    address = lance_address(uri)
    options = lance_options(uri, storage) or None
    with table_errors(uri):
        if version is not None:
            try:
                return lance.dataset(address, version=version, storage_options=options)
            except ValueError:  # cleaned up since; the slice says whether it is still what was planned
                pass
        try:
            return lance.dataset(address, storage_options=options)
        except ValueError as error:
            raise UserError(f"{uri} is no readable Lance table: {str(error)[:150]}", "check source.uri") from error


def columns(dataset: Any, source: Source, uri: str) -> tuple[str, list[str], bool]:
    """(image column, all columns, whether the image is a URI). Raises UserError."""
    blobs = {field.name for field in dataset.schema if is_blob(field)}
    plain = _plain_schema(dataset.schema)
    image, names, is_link = columns_of(plain, source, uri, Features.of(dataset.schema).images)
    if kept := [name for name in names if name in blobs and name != image]:
        raise UserError(f"column {kept[0]} of {uri} is a blob, which only the picture may be", "keep another column")
    return image, names, is_link


def _plain_schema(schema: Any) -> Any:
    """Blob columns as what they hold."""
    import pyarrow as pa

    return pa.schema([pa.field(f.name, pa.large_binary()) if is_blob(f) else f for f in schema])


def is_blob(field: Any) -> bool:
    """Whether a field's values lie outside of the rows, by any of Lance's two ways."""
    marked = (field.metadata or {}).get(b"lance-encoding:blob") == b"true"
    return marked or getattr(field.type, "extension_name", "") == "lance.blob.v2"


def slices(dataset: Any, names: Sequence[str], fragment: int | None = None) -> Iterator[Slice]:
    """Of all fragments, or of one (none, where that is not there), by the columns `names`."""
    ids = frozenset(_field_ids(dataset, names))
    found = dataset.get_fragments() if fragment is None else [dataset.get_fragment(fragment)]
    for one in found:
        if one is not None:
            yield from _slices_of(one, ids)


def slice_at(dataset: Any, names: Sequence[str], start: str, stop: str) -> Slice | None:
    """The slice that a unit's `start` names; None where nothing is there any more."""
    fragment, first = (int(part) for part in start.split(":"))
    for one in slices(dataset, names, fragment):
        if (one.start, one.stop) == (first, int(stop.partition("@")[0])):
            return one
    return None


def open_slice(uri: str, etag: str, span: tuple[str, str], names: Sequence[str], dataset: Any) -> Slice:
    """Raises SourceChanged where it is not what was planned."""
    found = slice_at(dataset, names, *span)
    if found is None or found.etag != etag:
        raise SourceChanged(f"{uri} changed since it was listed", _CHANGED)
    return found


def _slices_of(fragment: Any, ids: frozenset[int]) -> Iterator[Slice]:
    raw = fragment.metadata.to_json()
    files = [
        [file["path"], file.get("base_id"), [pair for pair in _columns_in(file) if pair[0] in ids]]
        for file in raw["files"]
        if ids & set(file["fields"])
    ]
    identity = json.dumps([raw["id"], files, raw.get("overlays")], sort_keys=True)
    rows = int(fragment.physical_rows)
    num_bytes = sum(file.get("file_size_bytes") or 0 for file in raw["files"] if ids & set(file["fields"]))
    live = living(fragment) if raw.get("deletion_file") else None
    for start in range(0, rows, SLICE_ROWS):
        stop = min(start + SLICE_ROWS, rows)
        first, last = (start, stop) if live is None else (int(i) for i in np.searchsorted(live, [start, stop]))
        if first == last:
            continue
        digest = hashlib.sha256(f"{identity} {start} {stop}".encode())
        if live is not None and last - first < stop - start:
            digest.update(live[first:last].tobytes())
        yield Slice(
            fragment=int(raw["id"]),
            start=start,
            stop=stop,
            offset=first,
            num_rows=last - first,
            etag=digest.hexdigest()[:32],
            num_bytes=num_bytes * (last - first) // rows,
        )


def _columns_in(file: dict[str, Any]) -> list[list[int]]:
    """[field id, column of the file]; files of the first format have no such columns."""
    indices = file.get("column_indices") or [-1] * len(file["fields"])
    return [[field, index] for field, index in zip(file["fields"], indices, strict=True)]


def _field_ids(dataset: Any, names: Sequence[str]) -> Iterator[int]:
    def with_children(field: Any) -> Iterator[int]:
        yield int(field.id())
        for child in field.children():
            yield from with_children(child)

    for field in dataset.lance_schema.fields():
        if field.name() in names:
            yield from with_children(field)


def living(fragment: Any) -> npt.NDArray[np.uint32]:
    """Places of the rows that are not deleted, ascending."""
    addresses = fragment.to_table(columns=[], with_row_address=True).column("_rowaddr").to_numpy()
    return np.sort((addresses & 0xFFFFFFFF).astype(np.uint32))


def text_records(unit: WorkUnit, source: Source, storage: Storage) -> Iterator[dict[str, Any]]:
    """What the columns of text, and of {bytes, path} the paths, hold in the rows of a unit."""
    dataset = open_table(unit.uri, storage, int(unit.end.partition("@")[2]))
    part = slice_at(dataset, columns(dataset, source, unit.uri)[1], unit.start, unit.end)
    if part is None:
        return
    names = [f.name for f in dataset.schema if is_text(f.type)]
    names += [f"{f.name}.path" for f in dataset.schema if has_paths(f.type)]
    rows = dataset.get_fragment(part.fragment).scanner(
        columns=names, offset=part.offset, limit=part.num_rows, batch_size=1000
    )
    for batch in rows.to_batches():
        yield from batch.to_pylist()


def part_of(address: int) -> str:
    """A row's address as what stands behind the `#` of its uri."""
    return f"fragment={address >> 32}&row={address & 0xFFFFFFFF}"


def address_of(part: str) -> int | None:
    """The opposite of `part_of`; None for what is no row of a Lance table."""
    match = _ROW.fullmatch(part)
    return (int(match[1]) << 32) + int(match[2]) if match else None
