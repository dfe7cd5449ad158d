"""What a job's sources hold right now, cut into work units: the part of planning that does I/O.

Nothing of an image is read, and no list is kept: units leave one by one as the listing goes on. Where a folder or a
manifest is cut is decided by its content (DESIGN: a key added to 300,000 changes 2 of 291 units), so that tomorrow's
survey of a grown bucket names the same units again.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clipmill.jobs.planning.surveying.logs import log_units
from clipmill.jobs.planning.surveying.slices import file_slices, manifest_slices
from clipmill.jobs.planning.surveying.tars import cut_tar
from clipmill.jobs.planning.surveying.unlisted import count_unlisted
from clipmill.jobs.planning.surveying.zips import zip_units
from clipmill.schemas.errors import EmptySource, SourceChanged, UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.left_out import LeftOut, count, ending_of, merge, to_text
from clipmill.schemas.unit.units import SourceObject, UnitNames, WorkUnit, make_unit_id
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.fields import DEFAULT_IMAGE
from clipmill.workers.read.tables.columns import is_metadata
from clipmill.workers.read.tables.log import is_log
from clipmill.workers.read.tars.packed import ARCHIVES, READABLE
from clipmill.workers.store.errors import as_user_error
from clipmill.workers.store.storage import StoreUnavailable, list_objects
from clipmill.workers.store.uri import WEB, has_magic, unquote

READER_VERSION = 3  # raise when a reader's change alters pixels, captions or ids of the same bytes
HUGE_TAR_BYTES = 2_000_000_000
TAR_SLICE_BYTES = 1_000_000_000
MIN_PARQUET_ROWS = 2_000
MAX_PARQUET_BYTES = 512_000_000  # groups of fewer rows are not merged beyond this
_FOOTER_THREADS = 16
_SUFFIXES = {
    "webdataset": (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.lz4"),
    "zip": (".zip",),
    "parquet": (".parquet", ".parq", ".pq"),
    "manifest": (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt"),
}


def survey(source: Source, storage: Storage, limits: Limits, *, left_out: LeftOut | None = None) -> Iterator[WorkUnit]:
    """Every unit of the source, in listing order; each object, key and line belongs to exactly one.

    What the listing shows and no unit holds is counted by ending in `left_out`, complete at the end. Raises
    UserError where a source is missing, refused or empty, or lacks a column that the job file names.
    """
    cutters = {
        "webdataset": _tars,
        "zip": _zips,
        "parquet": _parquets,
        "lance": _tables,
        "manifest": _manifests,
        "files": _files,
    }
    try:
        units = cutters[source.format](source, storage, {} if left_out is None else left_out)
        yield from units if source.limit is None else _first_samples(units, source.limit)
    except (FileNotFoundError, PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, ", ".join(source.uri)) from error


def _first_samples(units: Iterator[WorkUnit], limit: int) -> Iterator[WorkUnit]:
    """Units with at most `limit` samples in all. One that says how many it holds is taken whole while there is room; a
    tar does not, so a trial ends within the first."""
    for unit in units:
        if unit.num_samples is None or unit.num_samples > limit:
            name = make_unit_id(unit.uri, unit.etag, unit.unit_id, {"limit": limit})
            yield replace(unit, unit_id=name, num_samples=limit, limit=limit)
            return
        yield unit
        limit -= unit.num_samples
        if not limit:
            return


def reader_options(source: Source) -> dict[str, Any]:
    """All that changes what a reader makes of the same bytes; part of every unit's id."""
    return {"format": source.format, "version": READER_VERSION, **source.reader_options()}


def _objects(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[SourceObject]:
    """Objects of all patterns, each once. In a folder only names with the format's suffixes count."""
    seen: set[int] = set()  # 64-bit hashes, so that 100,000 names are some megabytes
    left: dict[int, str] = {}  # what one pattern leaves out another may take
    suffixes = _SUFFIXES[source.format]
    for pattern in source.uri:
        found = False

        def passed_over(uri: str, why: str) -> None:
            left[hash(uri)] = why

        for item in list_objects(pattern, storage, passed_over=passed_over):
            if not item.uri.lower().endswith(suffixes) and not _is_chosen(pattern, item, source):
                found = found or (source.format == "webdataset" and is_log(item.uri))
                ending = ending_of(unquote(item.uri))
                if len(source.uri) == 1:
                    count(left_out, ending)
                elif hash(item.uri) not in seen:
                    left[hash(item.uri)] = ending
                continue
            found = True
            left.pop(hash(item.uri), None)
            if hash(item.uri) not in seen:
                seen.add(hash(item.uri))
                yield item
        if not found:
            break
    for ending in left.values():
        count(left_out, ending)
    if not found or not seen:  # logs alone are no source
        raise EmptySource(
            f"source.uri {pattern} matches nothing of format {source.format}",
            f"check the spelling; below a folder, names must end in {', '.join(suffixes)}"
            + (f"; there are {to_text(left_out)}" if left_out else ""),
        )


def _is_chosen(pattern: str, item: SourceObject, source: Source) -> bool:
    """Whether an object without the format's suffixes is one all the same, because the user named it. Raises UserError
    for an archive that is no tar."""
    if not _names_files(pattern, item):
        return False
    if source.format != "webdataset":
        return True
    if not item.uri.lower().endswith(ARCHIVES):
        return not is_log(item.uri)
    if pattern.lower().endswith(ARCHIVES):
        raise UserError(f"{item.uri} is no tar by its name", f"pack it again: {READABLE}")
    return False


def _names_files(pattern: str, item: SourceObject) -> bool:
    """Whether the user chose this object by its name, rather than by a folder that holds it."""
    last = pattern.rpartition("/")[2]
    if has_magic(last) or "{" in last:
        return last not in ("*", "**")
    return bool(last) and unquote(item.uri).endswith("/" + unquote(last))


def _tars(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    name = UnitNames(reader_options(source))
    for item in _objects(source, storage, left_out):
        spans = _spans(item, storage) if item.size_bytes > HUGE_TAR_BYTES else [None]
        for span in spans:
            start, end = ("", "") if span is None else (str(span[0]), str(span[1]))
            size = item.size_bytes if span is None else span[1] - span[0]
            yield WorkUnit(
                unit_id=name(item.uri, item.etag, f"{start}-{end}" if span else ""),
                format="webdataset",
                uri=item.uri,
                etag=item.etag,
                size_bytes=size,
                start=start,
                end=end,
            )
    yield from log_units(source, storage, reader_options(source), left_out)


def _spans(item: SourceObject, storage: Storage) -> list[tuple[int, int] | None]:
    try:
        return cut_tar(item, storage, TAR_SLICE_BYTES)
    except (PermissionError, SourceChanged):  # costs this tar only; the worker that is given it says why
        return [None]


def _zips(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    yield from zip_units(_objects(source, storage, left_out), source, storage, reader_options(source))


def _parquets(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    from clipmill.workers.read.tables.parquet import row_groups

    name = UnitNames(reader_options(source))

    def footer(item: SourceObject) -> tuple[SourceObject, list[tuple[int, int]] | None]:
        try:
            return item, row_groups(item, source, storage)
        except (PermissionError, SourceChanged):  # costs this file only; the worker that is given it says why
            return item, None

    objects = _objects(source, storage, left_out)
    for item, groups in ordered_map(objects, footer, threads=_FOOTER_THREADS):
        for first, after, rows, size in _merge(groups, item.size_bytes):
            start, end = ("", "") if rows is None else (str(first), str(after))
            yield WorkUnit(
                unit_id=name(item.uri, item.etag, f"{start}-{end}"),
                format="parquet",
                uri=item.uri,
                etag=item.etag,
                size_bytes=size,
                start=start,
                end=end,
                num_samples=rows,
            )


def _tables(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    from clipmill.jobs.planning.surveying.lance_tables import lance_units

    yield from lance_units(source, storage, reader_options(source))


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


def _files(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    empty = True
    for unit in file_slices(source, storage, reader_options(source), left_out):
        empty = False
        yield unit
    if empty:
        wanted = ", ".join(source.image or DEFAULT_IMAGE)
        there = f"; there are {to_text(left_out)}" if left_out else ""
        raise EmptySource(
            f"source.uri {', '.join(source.uri)} holds no image", f"files must end in one of {wanted}{there}"
        )
    yield from log_units(source, storage, reader_options(source), left_out)


def _manifests(source: Source, storage: Storage, left_out: LeftOut) -> Iterator[WorkUnit]:
    options = reader_options(source)
    lists: list[str] = []
    beside: LeftOut = {}
    for item in _objects(source, storage, beside):
        lists.append(item.uri)
        yield from manifest_slices(item, source, storage, options)
    named = source.images is not None or any(is_metadata(uri) for uri in lists)
    if named and not any(uri.startswith(WEB) for uri in (*lists, source.images or "")):
        count_unlisted(lists, source, storage, left_out)
    else:
        merge(left_out, beside)
