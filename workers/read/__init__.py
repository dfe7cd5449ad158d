"""From a work unit to its samples, whatever the format. Every sample is yielded once: as a Sample or as a Reject."""

from collections.abc import Callable, Iterator
from itertools import islice

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import Format, WorkUnit
from clipmill.workers.read.census import Census

Reader = Callable[[WorkUnit, Source, Storage, Limits, Census], Iterator[Sample | Reject]]


def read_unit(
    unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census | None = None
) -> Iterator[Sample | Reject]:
    """Stream the samples of `unit`, in an order that only the unit's content decides.

    `census` is filled with what lies in the unit, counted before samples are made of it; complete at the end.
    Raises SourceChanged where the object is no longer the planned one, PermissionError where it may not be read and
    WrongFormat where it is not what the job file says (all of this unit alone), StoreUnavailable where a store does not
    answer for long, and UserError for a mistake in the job file, such as a missing column.
    """
    samples = _reader(unit.format)(unit, source, storage, limits, Census() if census is None else census)
    return samples if unit.limit is None else _first(samples, unit.limit)


def _reader(format: Format) -> Reader:
    """Imported where such a unit comes: what stands above is imported with any module of this room."""
    match format:
        case "webdataset":
            from clipmill.workers.read.tars import webdataset

            return webdataset.read
        case "zip":
            from clipmill.workers.read.folders import zipped

            return zipped.read
        case "files":
            from clipmill.workers.read.folders import files

            return files.read
        case "parquet":
            from clipmill.workers.read.tables import parquet

            return parquet.read
        case "lance":
            from clipmill.workers.read.tables import lance_rows

            return lance_rows.read
        case "log":
            from clipmill.workers.read.tables import log

            return log.read
        case "manifest":
            from clipmill.workers.read.lists import manifest

            return manifest.read
        case "fill" | "import":
            raise AssertionError(f"a unit of format {format} holds no samples")


def _first(samples: Iterator[Sample | Reject], number: int) -> Iterator[Sample | Reject]:
    """And then the source is let go of."""
    try:
        yield from islice(samples, number)
    finally:
        close = getattr(samples, "close", None)
        if close is not None:
            close()
