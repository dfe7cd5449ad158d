"""Units of Lance tables: slices of their fragments, at the version that is the newest now."""

from collections.abc import Iterator
from typing import Any

from clipmill.schemas.errors import EmptySource
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import UnitNames, WorkUnit
from clipmill.workers.read.tables.lance_table import columns, open_table, resolve, slices


def lance_units(source: Source, storage: Storage, options: dict[str, Any]) -> Iterator[WorkUnit]:
    """Raises UserError where a table is missing or lacks a column that the job file names, EmptySource without rows."""
    name = UnitNames(options)
    empty = True
    for uri in dict.fromkeys(resolve(typed, storage) for typed in source.uri):
        dataset = open_table(uri, storage)
        names = columns(dataset, source, uri)[1]
        for part in slices(dataset, names):
            empty = False
            yield WorkUnit(
                unit_id=name(uri, part.etag, ""),
                format="lance",
                uri=uri,
                etag=part.etag,
                size_bytes=part.num_bytes,
                start=f"{part.fragment}:{part.start}",
                end=f"{part.stop}@{dataset.version}",
                num_samples=part.num_rows,
            )
    if empty:
        raise EmptySource(f"source.uri {', '.join(source.uri)} holds no rows", "is it the right table?")
