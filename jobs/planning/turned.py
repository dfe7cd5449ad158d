"""Pictures that another tool left lying on their side, told before they are embedded so.

img2dataset writes pictures anew without their EXIF orientation and without having turned them; what the orientation was
stands in the .json beside each, as text of the library exifread. Nothing else in the shard shows it.
"""

import json
from typing import Any

from clipmill.schemas.config import Limits, Source, Storage
from clipmill.schemas.errors import SourceChanged, WrongFormat
from clipmill.schemas.units import WorkUnit
from clipmill.schemas.words import counted
from clipmill.workers.read.census import split_name
from clipmill.workers.read.fields import MAX_TEXT_BYTES, Wanted
from clipmill.workers.read.packed import unpack
from clipmill.workers.read.tar import BadTar, TarReader
from clipmill.workers.store.storage import open_stream

LOOK_AT = 300  # members of the first tar
LOOK_BYTES = 32_000_000
_HEAD_BYTES = 65_536  # EXIF is in the first segments of a JPEG; other formats are rare here
_EXIF = (b"Exif\0\0", b"eXIf")


def turned(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> str | None:
    """A sentence, where pictures at the beginning of a tar lie turned; None where none is, the job says what
    turns them, or the tar cannot be read, which `embed` will say."""
    if source.format != "webdataset" or source.orientation is not None or unit.start not in ("", "0"):
        return None
    try:
        pictures, lying = _look(unit, source, storage, limits)
    except (BadTar, WrongFormat, SourceChanged, PermissionError):
        return None
    if not lying:
        return None
    return (
        f"{lying} of the first {counted(pictures, 'picture')} of {unit.uri} {'lies' if lying == 1 else 'lie'} turned: "
        "the EXIF orientation is in the .json beside each and no longer in the picture, as img2dataset writes them; "
        "`source.orientation: json:exif` turns them by it; see docs/shards.md"
    )


def _look(unit: WorkUnit, source: Source, storage: Storage, limits: Limits) -> tuple[int, int]:
    """How many pictures have their .json among the first members, and how many of those lie turned."""
    wanted = Wanted.of(source)
    stated: dict[str, bool] = {}  # key: whether the picture's own bytes hold EXIF
    said: dict[str, bool] = {}  # key: whether the .json says that it is turned
    with open_stream(unit.uri, storage, expected_etag=unit.etag) as stream:
        plain, is_packed = unpack(stream, unit.uri)
        tar = TarReader(plain, seekable=not is_packed)
        for count, member in enumerate(tar, start=1):
            key, extension = split_name(member.name) or ("", "")
            is_whole = member.link is None and not member.sparse
            if is_whole and extension in wanted.image and member.size <= limits.max_image_bytes:
                head = tar.read(member)[:_HEAD_BYTES]
                stated[key] = any(mark in head for mark in _EXIF)
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
