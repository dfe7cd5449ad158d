"""Pictures that another tool left lying on their side, told before they are embedded so, or embedded so again.

img2dataset writes pictures anew without their EXIF orientation and without having turned them; what the orientation was
stands in the .json beside each, as text of the library exifread. Nothing else in the shard shows it.
"""

import json
from dataclasses import replace
from typing import Any

from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.planning.survey import survey
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import ORIENTATION, has_orientation
from clipmill.schemas.config import Limits, Source, Storage
from clipmill.schemas.errors import SourceChanged, UserError, WrongFormat
from clipmill.schemas.samples import Sample
from clipmill.schemas.units import WorkUnit
from clipmill.schemas.words import counted
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import split_name
from clipmill.workers.read.fields import MAX_TEXT_BYTES, Wanted
from clipmill.workers.read.orientation import lacking
from clipmill.workers.read.packed import unpack
from clipmill.workers.read.tar import BadTar, TarReader
from clipmill.workers.store.storage import open_stream

LOOK_AT = 300  # members of the first tar
LOOK_BYTES = 32_000_000
LOOK_AT_SAMPLES = 30  # of a parquet file or a folder
_SAID_IN = {"webdataset": ".json beside each", "files": ".json beside each", "parquet": "column exif"}
_FIELD = {"webdataset": "json:exif", "files": "json:exif", "parquet": "exif"}


def turned(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> str | None:
    """A sentence, where pictures at the beginning of a tar, a parquet file or a folder lie turned; None where none is,
    the job says what turns them, or they cannot be read, which `embed` will say."""
    if source.format not in _SAID_IN or source.orientation is not None:
        return None
    if source.format == "webdataset" and unit.start not in ("", "0"):
        return None
    look = _look if source.format == "webdataset" else _look_at_samples
    try:
        pictures, lying = look(unit, source, storage, limits)
    except (BadTar, WrongFormat, SourceChanged, PermissionError, UserError):
        return None
    if not lying:
        return None
    return (
        f"{lying} of the first {counted(pictures, 'picture')} of {unit.uri} {'lies' if lying == 1 else 'lie'} turned: "
        f"the EXIF orientation is in the {_SAID_IN[source.format]} and no longer in the picture, as img2dataset writes "
        f"them; `source.orientation: {_FIELD[source.format]}` turns them by it; see docs/shards.md"
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


def _look_at_samples(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> tuple[int, int]:
    """How many of the first samples say how they lie, and how many of those lie turned."""
    asked = source.model_copy(update={"orientation": _FIELD[source.format]})
    if source.format == "files":  # with the .json files, what lies there has another digest
        unit = next(survey(asked, storage, limits))
    reading = read_unit(replace(unit, limit=LOOK_AT_SAMPLES), asked, storage, limits)
    said = [one.orientation for one in reading if isinstance(one, Sample) and one.orientation is not None]
    return len(said), sum(orientation != 1 for orientation in said)


def _look(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> tuple[int, int]:
    """How many pictures have their .json among the first members, and how many of those lie turned."""
    wanted = Wanted.of(source)
    stated: dict[str, bool] = {}  # key: whether the picture's own bytes say it, or are of a format that gets none
    said: dict[str, bool] = {}  # key: whether the .json says that it is turned
    with open_stream(unit.uri, storage, expected_etag=unit.etag) as stream:
        plain, is_packed = unpack(stream, unit.uri)
        tar = TarReader(plain, seekable=not is_packed)
        for count, member in enumerate(tar, start=1):
            key, extension = split_name(member.name) or ("", "")
            is_whole = member.link is None and not member.sparse
            if is_whole and extension in wanted.image and member.size <= limits.max_image_bytes:
                stated[key] = not lacking(tar.read(member))
            elif is_whole and extension == "json" and member.size <= MAX_TEXT_BYTES:
                said[key] = _says_turned(tar.read(member))
            if count == LOOK_AT or member.offset + member.size > LOOK_BYTES:
                break
    both = stated.keys() & said.keys()
    return len(both), sum(said[key] and not stated[key] for key in both)


def _says_turned(data: bytes) -> bool:
    """Whether img2dataset's `exif`, itself JSON in a string, names an orientation that is not upright."""
    try:
        record: Any = json.loads(data)
        exif: Any = json.loads(record["exif"])
        orientation = exif.get("Image Orientation")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return isinstance(orientation, str) and orientation.startswith(("Rotated", "Mirrored"))
