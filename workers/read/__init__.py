"""From a work unit to its samples, whatever the format. Every sample is yielded once: as a Sample or as a Reject."""

from collections.abc import Iterator

from schemas.config import Limits, Source, Storage
from schemas.rejects import Reject
from schemas.samples import Sample
from schemas.units import WorkUnit


def read_unit(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> Iterator[Sample | Reject]:
    """Stream the samples of `unit`, in an order that only the unit's content decides.

    Raises SourceChanged where the object is no longer the planned one, StoreUnavailable (see `storage.TRANSIENT`)
    where a store does not answer for long, and UserError for a mistake in the job file, such as a missing column.
    """
    if unit.format == "webdataset":
        from workers.read import webdataset

        return webdataset.read(unit, source, storage, limits)
    if unit.format == "files":
        from workers.read import files

        return files.read(unit, source, storage, limits)
    if unit.format == "parquet":
        from workers.read import parquet

        return parquet.read(unit, source, storage, limits)
    assert unit.format == "manifest", unit.format
    from workers.read import manifest

    return manifest.read(unit, source, storage, limits)
