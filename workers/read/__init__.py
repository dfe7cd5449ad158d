"""From a work unit to its samples, whatever the format. Every sample is yielded once: as a Sample or as a Reject."""

from collections.abc import Iterator
from itertools import islice

from clipmill.schemas.config import Limits, Source, Storage
from clipmill.schemas.rejects import Reject
from clipmill.schemas.samples import Sample
from clipmill.schemas.units import WorkUnit
from clipmill.workers.read.census import Census


def read_unit(
    unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census | None = None
) -> Iterator[Sample | Reject]:
    """Stream the samples of `unit`, in an order that only the unit's content decides.

    `census` is filled with what lies in the unit, counted before samples are made of it; complete at the end.
    Raises SourceChanged where the object is no longer the planned one, PermissionError where it may not be read and
    WrongFormat where it is not what the job file says (all of this unit alone), StoreUnavailable (see
    `storage.TRANSIENT`) where a store does not answer for long, and UserError for a mistake in the job file, such as a
    missing column.
    """
    samples = _read_whole(unit, source, storage, limits, census if census is not None else Census())
    return samples if unit.limit is None else _first(samples, unit.limit)


def _first(samples: Iterator[Sample | Reject], number: int) -> Iterator[Sample | Reject]:
    """And then the source is let go of."""
    try:
        yield from islice(samples, number)
    finally:
        close = getattr(samples, "close", None)
        if close is not None:
            close()


def _read_whole(
    unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census
) -> Iterator[Sample | Reject]:
    if unit.format == "webdataset":
        from clipmill.workers.read.webdataset import read as read_webdataset

        return read_webdataset(unit, source, storage, limits, census)
    if unit.format == "zip":
        from clipmill.workers.read.zipped import read as read_zip

        return read_zip(unit, source, storage, limits, census)
    if unit.format == "files":
        from clipmill.workers.read.files import read as read_files

        return read_files(unit, source, storage, limits, census)
    if unit.format == "parquet":
        from clipmill.workers.read.parquet import read as read_parquet

        return read_parquet(unit, source, storage, limits, census)
    if unit.format == "lance":
        from clipmill.workers.read.lance_rows import read as read_lance

        return read_lance(unit, source, storage, limits, census)
    if unit.format == "log":
        from clipmill.workers.read.log import read as read_log

        return read_log(unit, source, storage, limits, census)
    assert unit.format == "manifest", unit.format
    from clipmill.workers.read.manifest import read as read_manifest

    return read_manifest(unit, source, storage, limits, census)
