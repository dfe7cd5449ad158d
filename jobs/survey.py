"""What a job's sources hold right now, cut into work units: the part of planning that does I/O.

Nothing of an image is read, and no list is kept: units leave one by one as the listing goes on. Where a folder or a
manifest is cut is decided by its content (DESIGN: a key added to 300,000 changes 2 of 291 units), so that tomorrow's
survey of a grown bucket names the same units again.
"""

from collections.abc import Iterator
from typing import Any

from jobs.survey_cut import cut_tar
from jobs.survey_slices import file_slices, manifest_slices
from schemas.config import Limits, Source, Storage
from schemas.errors import UserError
from schemas.units import SourceObject, WorkUnit, make_unit_id
from workers.read.fetch import ordered_map
from workers.storage import StoreUnavailable, list_objects
from workers.store_errors import as_user_error
from workers.store_uri import has_magic, unquote

READER_VERSION = 2  # raise when a reader's change alters pixels, captions or ids of the same bytes
HUGE_TAR_BYTES = 2_000_000_000
TAR_SLICE_BYTES = 1_000_000_000
MIN_PARQUET_ROWS = 2_000
MAX_PARQUET_BYTES = 512_000_000  # groups of fewer rows are not merged beyond this
_FOOTER_THREADS = 16
_SUFFIXES = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".parq", ".pq"),
    "manifest": (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt"),
}


def survey(source: Source, storage: Storage, limits: Limits) -> Iterator[WorkUnit]:
    """Every unit of the source, in listing order; each object, key and line belongs to exactly one.

    Raises UserError where a source is missing, refused or empty, or lacks a column that the job file names.
    """
    cutters = {"webdataset": _tars, "parquet": _parquets, "manifest": _manifests, "files": _files}
    try:
        yield from cutters[source.format](source, storage, limits)
    except (FileNotFoundError, PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, ", ".join(source.uri)) from error


def reader_options(source: Source) -> dict[str, Any]:
    """All that changes what a reader makes of the same bytes; part of every unit's id."""
    return {"format": source.format, "version": READER_VERSION, **source.reader_options()}


def _objects(source: Source, storage: Storage) -> Iterator[SourceObject]:
    """Objects of all patterns, each once. In a folder only names with the format's suffixes count."""
    seen: set[int] = set()  # 64-bit hashes, so that 100,000 names are some megabytes
    suffixes = _SUFFIXES[source.format]
    for pattern in source.uri:
        found = False
        for item in list_objects(pattern, storage):
            if not _names_files(pattern, item) and not item.uri.lower().endswith(suffixes):
                continue
            found = True
            if hash(item.uri) not in seen:
                seen.add(hash(item.uri))
                yield item
        if not found:
            raise UserError(
                f"source.uri {pattern} matches nothing of format {source.format}",
                f"check the spelling; below a folder, names must end in {', '.join(suffixes)}",
            )


def _names_files(pattern: str, item: SourceObject) -> bool:
    """Whether the user chose this object by its name, rather than by a folder that holds it."""
    last = pattern.rpartition("/")[2]
    if has_magic(last) or "{" in last:
        return last not in ("*", "**")
    return bool(last) and unquote(item.uri).endswith("/" + unquote(last))


def _tars(source: Source, storage: Storage, limits: Limits) -> Iterator[WorkUnit]:
    options = reader_options(source)
    for item in _objects(source, storage):
        spans = cut_tar(item, storage, TAR_SLICE_BYTES) if item.size_bytes > HUGE_TAR_BYTES else [None]
        for span in spans:
            start, end = ("", "") if span is None else (str(span[0]), str(span[1]))
            size = item.size_bytes if span is None else span[1] - span[0]
            yield WorkUnit(
                unit_id=make_unit_id(item.uri, item.etag, f"{start}-{end}" if span else "", options),
                format="webdataset",
                uri=item.uri,
                etag=item.etag,
                size_bytes=size,
                start=start,
                end=end,
            )


def _parquets(source: Source, storage: Storage, limits: Limits) -> Iterator[WorkUnit]:
    from workers.read.parquet import row_groups

    options = reader_options(source)

    def footer(item: SourceObject) -> tuple[SourceObject, list[tuple[int, int]] | None]:
        return item, row_groups(item, source, storage)

    objects = _objects(source, storage)
    for item, groups in ordered_map(objects, footer, weigh=lambda _: 0, max_bytes=1, threads=_FOOTER_THREADS):
        for first, after, rows, size in _merge(groups, item.size_bytes):
            start, end = ("", "") if rows is None else (str(first), str(after))
            yield WorkUnit(
                unit_id=make_unit_id(item.uri, item.etag, f"{start}-{end}", options),
                format="parquet",
                uri=item.uri,
                etag=item.etag,
                size_bytes=size,
                start=start,
                end=end,
                num_samples=rows,
            )


def _merge(groups: list[tuple[int, int]] | None, file_bytes: int) -> Iterator[tuple[int, int, int | None, int]]:
    """(first group, group after the last, rows, bytes) of each unit. `groups`: (rows, bytes) of each row group; None
    for a file whose footer cannot be read, which the worker will reject by name."""
    if groups is None:
        yield 0, 0, None, file_bytes
        return
    first = rows = size = 0
    for i, (group_rows, group_bytes) in enumerate(groups):
        rows, size = rows + group_rows, size + group_bytes
        if rows >= MIN_PARQUET_ROWS or size >= MAX_PARQUET_BYTES or i == len(groups) - 1:
            yield first, i + 1, rows, size
            first, rows, size = i + 1, 0, 0


def _files(source: Source, storage: Storage, limits: Limits) -> Iterator[WorkUnit]:
    empty = True
    for unit in file_slices(source, storage, reader_options(source)):
        empty = False
        yield unit
    if empty:
        wanted = ", ".join(source.image) or "jpg, jpeg, png, webp, gif, bmp, tif, tiff"
        raise UserError(f"source.uri {', '.join(source.uri)} holds no image", f"files must end in one of {wanted}")


def _manifests(source: Source, storage: Storage, limits: Limits) -> Iterator[WorkUnit]:
    options = reader_options(source)
    for item in _objects(source, storage):
        yield from manifest_slices(item, source, storage, options)
