"""Units of the logs that img2dataset writes beside its tars and folders: what it could not download is in no tar."""

from collections.abc import Iterator
from typing import Any

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.left_out import OTHER, LeftOut
from clipmill.schemas.unit.units import SourceObject, UnitNames, WorkUnit
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.tables.log import count_failures, is_log
from clipmill.workers.store.storage import list_objects

_ENDING = "parquet"
_THREADS = 16


def log_units(source: Source, storage: Storage, options: dict[str, Any], left_out: LeftOut) -> Iterator[WorkUnit]:
    """A unit for each log that tells of failures, among what `left_out` has counted so far; those logs leave it.
    Nothing is listed where no parquet file was left out."""
    if not {_ENDING, OTHER} & left_out.keys():
        return
    name = UnitNames(options)

    def look(item: SourceObject) -> tuple[SourceObject, int | None]:
        try:
            return item, count_failures(item, storage)
        except (PermissionError, SourceChanged):
            return item, None  # it stays left out

    for item, failures in ordered_map(_logs(source, storage), look, threads=_THREADS):
        if failures is None:
            continue
        key = _ENDING if _ENDING in left_out else OTHER
        left_out[key] = left_out.get(key, 0) - 1
        if left_out[key] <= 0:
            del left_out[key]
        if failures:
            yield WorkUnit(
                unit_id=name(item.uri, item.etag, ""),
                format="log",
                uri=item.uri,
                etag=item.etag,
                size_bytes=item.size_bytes,
                num_samples=failures,
            )


def _logs(source: Source, storage: Storage) -> Iterator[SourceObject]:
    seen: set[str] = set()
    for pattern in source.uri:
        for item in list_objects(pattern, storage):
            if is_log(item.uri) and item.uri not in seen:
                seen.add(item.uri)
                yield item
