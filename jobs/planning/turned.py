"""Pictures that another tool left lying on their side, told before they are embedded so, or embedded so again.

img2dataset writes pictures anew without their EXIF orientation and without having turned them; what the orientation was
stands in the .json beside each, as text of the library exifread. Nothing else in the shard shows it.
"""

from collections.abc import Iterator
from dataclasses import replace

from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import ORIENTATION, has_orientation
from clipmill.schemas.errors import SourceChanged, UserError, WrongFormat
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read import read_unit

LOOK_AT = 100  # samples of a unit
LOOK_BYTES = 32_000_000
_BESIDE, _COLUMN = ("json:exif", ".json beside each"), ("exif", "column exif")
_SAID_IN = {"webdataset": _BESIDE, "files": _BESIDE, "zip": _BESIDE, "parquet": _COLUMN, "lance": _COLUMN}


def turned(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> str | None:
    """A sentence, where pictures at the beginning of a unit would be turned by what img2dataset says of them; None
    where none would, the job says what turns them, or they cannot be read, which `embed` will say."""
    if source.format not in _SAID_IN or source.orientation is not None:
        return None
    field, place = _SAID_IN[source.format]
    asked = source.model_copy(update={"orientation": field})
    try:
        found = list(_orientations(unit, asked, storage, limits))
    except (WrongFormat, SourceChanged, PermissionError, UserError):
        return None
    lying = sum(one not in (None, 1) for one in found)
    if not lying:
        return None
    first, verb = counted(len(found), "picture"), "lies" if lying == 1 else "lie"
    return (
        f"{lying} of the first {first} of {unit.uri} {verb} turned: the EXIF orientation is in the {place} and no "
        f"longer in the picture, as img2dataset writes them; `source.orientation: {field}` turns them by it; see "
        "docs/shards.md"
    )


def refuse_to_turn_back(tables: Tables, plan: Plan, source: Source) -> None:
    """Rows of pictures that an earlier job turned would be replaced by rows of the same pictures as their bytes lie,
    because this job does not say `source.orientation`: UserError."""
    rows = None if source.orientation is not None or not plan.replaced else tables.open(missing_ok=True)
    if rows is None or not has_orientation(rows.schema):
        return
    scanner = rows.scanner(columns=["unit_id"], filter=f"{ORIENTATION} IS NOT NULL")
    lying = sum(unit_id in plan.replaced for batch in scanner.to_batches() for unit_id in batch["unit_id"].to_pylist())
    if lying:
        raise UserError(
            f"{counted(lying, 'row')} to be replaced {'has' if lying == 1 else 'have'} an orientation that an earlier "
            "job read, and this one has no source.orientation: their pictures would lie as their bytes do",
            "put it back, such as `orientation: json:exif` (a picture's own EXIF goes before it); or give the job "
            "another table name",
        )


def _orientations(unit: WorkUnit, asked: Source, storage: Storage, limits: Limits) -> Iterator[int | None]:
    """What a job that asked would turn the first pictures by."""
    if asked.format in ("files", "lance"):  # with what says it, the same slice has another digest
        unit = next(survey(asked, storage, limits))
    if asked.format == "webdataset":  # else pictures without a .json would wait for it to the tar's end
        unit = replace(unit, end=str(int(unit.start or 0) + LOOK_BYTES))
    num_bytes = 0
    for one in read_unit(replace(unit, limit=LOOK_AT), asked, storage, limits):
        if isinstance(one, Sample):
            num_bytes += len(one.image)
            yield one.orientation
        if num_bytes > LOOK_BYTES:
            return
