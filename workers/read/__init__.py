"""From a work unit to its samples, whatever the format. Every sample is yielded once: as a Sample or as a Reject."""

import importlib
from collections.abc import Iterator
from itertools import islice

from clipmill.schemas.config import Limits, Source, Storage
from clipmill.schemas.rejects import Reject
from clipmill.schemas.samples import Sample
from clipmill.schemas.units import WorkUnit
from clipmill.workers.read.census import Census

# Format of a unit -> the module that reads it, imported where such a unit comes.
_MODULES = {
    "webdataset": "webdataset",
    "zip": "zipped",
    "files": "files",
    "parquet": "parquet",
    "lance": "lance_rows",
    "manifest": "manifest",
    "log": "log",
}


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
    module = importlib.import_module(f"clipmill.workers.read.{_MODULES[unit.format]}")
    samples: Iterator[Sample | Reject] = module.read(
        unit, source, storage, limits, Census() if census is None else census
    )
    return samples if unit.limit is None else _first(samples, unit.limit)


def _first(samples: Iterator[Sample | Reject], number: int) -> Iterator[Sample | Reject]:
    """And then the source is let go of."""
    try:
        yield from islice(samples, number)
    finally:
        close = getattr(samples, "close", None)
        if close is not None:
            close()
