"""A unit over one object, and what came out of a reader."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read import read_unit
from clipmill.workers.store.storage import head


def unit_of(uri: str, format: str, storage: Storage | None = None, **changes: Any) -> WorkUnit:
    found = head(uri, storage or Storage())
    return WorkUnit(unit_id="u", format=format, uri=found.uri, etag=found.etag, size_bytes=found.size_bytes, **changes)


def read_tar(
    uri: str, storage: Storage | None = None, limits: Limits | None = None, **options: Any
) -> list[Sample | Reject]:
    source = Source(format="webdataset", uri=uri, **options)
    unit = unit_of(uri, "webdataset", storage)
    return list(read_unit(unit, source, storage or Storage(), limits or Limits()))


def reasons(found: Iterable[Sample | Reject]) -> Counter[str]:
    """Rejects by reason; samples under `ok`."""
    return Counter("ok" if isinstance(item, Sample) else item.reason.value for item in found)


def samples(found: Iterable[Sample | Reject]) -> dict[str, Sample]:
    """Samples by the part of their uri after the `#`, or the whole uri."""
    return {item.uri.partition("#")[2] or item.uri: item for item in found if isinstance(item, Sample)}
