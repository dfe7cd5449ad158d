"""Units of zip archives: the directory at an archive's end says what it holds and where a large one may be cut."""

from collections.abc import Iterable, Iterator
from typing import Any

from clipmill.schemas.errors import SourceChanged, WrongFormat
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import SourceObject, UnitNames, WorkUnit
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.folders.archive import MAX_DIRECTORY_BYTES
from clipmill.workers.read.folders.zipped import spans

SLICE_BYTES = 1_000_000_000
_THREADS = 16

_Spans = list[tuple[int, int | None, int | None, int]]


def zip_units(
    objects: Iterable[SourceObject], source: Source, storage: Storage, options: dict[str, Any]
) -> Iterator[WorkUnit]:
    """One unit an archive, of a large one one for each `SLICE_BYTES`."""
    name = UnitNames(options)

    def look(item: SourceObject) -> tuple[SourceObject, _Spans]:
        try:
            return item, [*spans(item, source, storage, SLICE_BYTES)] if item.size_bytes else [(0, None, 1, 0)]
        except (PermissionError, SourceChanged, WrongFormat):  # costs this archive only; its worker says why
            return item, [(0, None, None, item.size_bytes)]

    def weigh(item: SourceObject) -> int:
        return min(item.size_bytes, MAX_DIRECTORY_BYTES)  # a directory takes seven times as much in memory

    for item, cuts in ordered_map(objects, look, weigh=weigh, max_bytes=MAX_DIRECTORY_BYTES, threads=_THREADS):
        for first, after, pictures, size in cuts:
            start = str(first) if len(cuts) > 1 else ""
            end = str(item.size_bytes if after is None else after) if len(cuts) > 1 else ""
            yield WorkUnit(
                unit_id=name(item.uri, item.etag, f"{start}-{end}" if start else ""),
                format="zip",
                uri=item.uri,
                etag=item.etag,
                size_bytes=size,
                start=start,
                end=end,
                num_samples=pictures,
            )
