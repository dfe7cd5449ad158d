"""From what a source says about an image to the caption, id and typed metadata of its row.

Shared by all readers. A value that cannot be read as its declared type is null, never a guess, and its sample says
so (`Sample.unread`); only where the job file requires the value, or it names the row, the sample is a reject
`bad_metadata`. A missing value, and NaN, by which pandas means the same, is None.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from clipmill.schemas.columns import ORIENTATION
from clipmill.schemas.job.config import FOLDER, Source
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import orientation
from clipmill.workers.read.tables.features import Label
from clipmill.workers.store.uri import quote

# In the order in which one of several images of a key is chosen. HEIC is not among them, because it takes an extra to
# decode it: what a source holds must not depend on where its listing is made, so a job names it. Where a decoder is
# missing for another, its pictures are rejects `unknown_format`, so none goes by in silence.
DEFAULT_IMAGE = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jpe", "jfif", "avif", "jp2")
MAX_TEXT_BYTES = 1_000_000  # of a caption or json member
_TRUE, _FALSE = frozenset({"true", "1", "1.0", "yes"}), frozenset({"false", "0", "0.0", "no"})
_NUMBERS = frozenset({"int32", "int64", "float32", "float64"})


class BadField(Exception):
    """A caption or field that cannot be read as its type; the text names field and value."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which members or sidecars a source needs. Extensions are lower-case, without the leading dot."""

    image: tuple[str, ...]
    caption: str | None  # extension of the text that is the caption
    caption_field: str | None  # or the path inside the json
    json: bool

    @staticmethod
    def of(source: Source) -> "Wanted":
        image = tuple(e.strip().lstrip(".").lower() for e in source.image) or DEFAULT_IMAGE
        named = source.caption or ""
        field = named.removeprefix("json:") if named.startswith("json:") else None
        text = named.lstrip(".").lower() if named and field is None else None
        if text == "json":
            text, field = None, "caption"
        kept = any(keep.source != FOLDER for keep in source.keep.values())
        needs_json = field is not None or kept or source.id.startswith("column:") or source.orientation is not None
        return Wanted(image, text, field, needs_json)

    def is_text(self, extension: str) -> bool:
        """Whether the caption or the json has this extension."""
        return extension == self.caption or (extension == "json" and self.json)


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """`a` or, where there is no such field, `a.b.0` through objects and lists; None where it is missing."""
    if path in record:
        return record[path]
    value: Any = record
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def coerce(name: str, value: Any, kind: str) -> Any:
    """`value` as a key of `schemas.columns.KEEP_TYPES`, in plain Python. Raises BadField."""
    try:
        return None if _is_missing(value, kind) else _COERCE[kind](value)
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        shown = repr(value)
        raise BadField(f"{name} = {shown[:80]}{'…' if len(shown) > 80 else ''} is not {kind}") from error


def _is_missing(value: Any, kind: str) -> bool:
    if isinstance(value, str):
        return (value == "" and kind != "string") or (kind in _NUMBERS and value.strip().lower() == "nan")
    if isinstance(value, Label):
        return value == -1 and kind == "string"
    return value is None or (isinstance(value, (float, Decimal)) and math.isnan(value))


def _string(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    if isinstance(value, Label):
        return value.name
    if isinstance(value, (str, bool, int, float, Decimal, date)) and not _is_missing(value, "string"):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        text.encode()  # a lone surrogate cannot be stored
        return text
    raise TypeError


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _integer(bits: int) -> Callable[[Any], int]:
    """Whole numbers, however they are written: 512, "512", 512.0, "512.0", Decimal("512.00")."""

    def to_int(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
            raise TypeError
        exact = Decimal(value.strip()) if isinstance(value, str) else value
        if not -(2 ** (bits - 1)) <= exact < 2 ** (bits - 1) or int(exact) != exact:
            raise ValueError
        return int(exact)

    return to_int


def _floating(bits: int) -> Callable[[Any], float]:
    def to_float(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
            raise TypeError
        number = float(value)
        if bits == 32 and math.isfinite(number) and abs(number) > float(np.finfo(np.float32).max):
            raise ValueError
        return number

    return to_float


def _timestamp(value: Any) -> datetime:
    """ISO 8601, or seconds since 1970; without a zone it is UTC."""
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if text.replace(".", "", 1).lstrip("-").isdecimal() else datetime.fromisoformat(text)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return datetime.fromtimestamp(float(value) if isinstance(value, Decimal) else value, UTC)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise TypeError
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _strings(value: Any) -> list[str]:
    """A list, or the JSON text of one, as CSV must write it."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return [_string(item) for item in value]


_COERCE: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "bool": _bool,
    "int32": _integer(32),
    "int64": _integer(64),
    "float32": _floating(32),
    "float64": _floating(64),
    "timestamp": _timestamp,
    "list<string>": _strings,
}


@dataclass(frozen=True, slots=True)
class Values:
    """What a record says about its image. `unread` as in `Sample`; `stated`: how it lies, EXIF 1..8."""

    caption: str | None
    metadata: dict[str, Any]
    unread: dict[str, str]
    stated: int | None = None

    def orientation_of(self, image: bytes) -> int | None:
        """Where the picture's own bytes say it, that is None."""
        return self.stated if self.stated is not None and orientation.lacking(image) else None


def values_of(record: Mapping[str, Any], source: Source, caption: Any) -> Values:
    """The caption (blank is none; of a list its first text) and every kept column of `source`, typed; null, and in
    `unread`, where a value cannot be read. Raises BadField for a required one that cannot, or is missing."""
    unread: dict[str, str] = {}

    def typed(name: str, value: Any, kind: str) -> Any:
        try:
            return coerce(name, value, kind)
        except BadField as error:
            unread[name] = str(error)
            return None

    text: str | None = typed("caption", _first_text(caption), "string")
    metadata: dict[str, Any] = {}
    for name, keep in source.keep.items():
        metadata[name] = typed(name, lookup(record, keep.field(name)), keep.type)
        if keep.required and metadata[name] is None:
            raise BadField(unread.get(name, f"{name} is missing") + f", and source.keep.{name} is required")
    stated = None
    if source.orientation is not None:
        try:
            stated = orientation.stated(lookup(record, orientation.path_of(source)))
        except (ValueError, RecursionError) as error:
            unread[ORIENTATION] = f"{source.orientation}: {error}"[:200]
    return Values((text.strip() or None) if text is not None else None, metadata, unread, stated)


def _first_text(value: Any) -> Any:
    """Of several captions the first; a list of something else is left for the caller to say so."""
    if not isinstance(value, list) or not all(isinstance(item, str) or item is None for item in value):
        return value
    return next((item for item in value if item and item.strip()), None)


def decode_text(data: bytes, what: str) -> str:
    """UTF-8, with or without a byte order mark. Raises BadField that says where it is not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadField(f"{what} is not UTF-8 at byte {error.start}") from error


def decode_json(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises BadField."""
    try:
        record = json.loads(decode_text(data, "json"))
    except (ValueError, RecursionError) as error:
        raise BadField(f"json cannot be read: {str(error)[:120]}") from error
    if not isinstance(record, dict):
        raise BadField(f"json holds a {type(record).__name__}, not an object")
    return record


def sample_id(source: Source, *, uri: str, key: str, record: Mapping[str, Any]) -> str:
    """The id that the job file asks for; empty for `content`, which the unit loop hashes. Raises BadField."""
    if source.id == "uri":
        return uri
    if source.id == "content":
        return ""
    if source.id == "key":
        return storable(key)
    column = source.id_field
    value = coerce(column, lookup(record, column), "string")
    if not value:
        raise BadField(f"field {column}, which names the id, is missing or empty")
    return str(value)


def storable(name: str) -> str:
    """`name` itself, or escaped where it is not valid Unicode."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        # JSON can say halves of characters, which no name on a disk has.
        return quote(name).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What was found for one image: its bytes and its texts, and where the bytes are."""

    uri: str
    key: str
    image: bytes
    caption: bytes | None = None
    json: bytes | None = None
    offset: int | None = None
    folder: str | None = None  # the name of that in which it lies


def assemble(parts: Parts, source: Source, wanted: Wanted) -> Sample | Reject:
    """The sample of an image with separate texts (webdataset, files), or its reject `bad_metadata`."""
    try:
        record = decode_json(parts.json) if parts.json is not None and wanted.json else {}
        if parts.folder:
            record[FOLDER] = storable(parts.folder)
        if wanted.caption_field is not None:
            caption = lookup(record, wanted.caption_field)
        else:
            caption = None if parts.caption is None else decode_text(parts.caption, "caption")
        values = values_of(record, source, caption)
        return Sample(
            id=sample_id(source, uri=parts.uri, key=parts.key, record=record),
            uri=parts.uri,
            image=parts.image,
            caption=values.caption,
            metadata=values.metadata,
            unread=values.unread,
            orientation=values.orientation_of(parts.image),
            image_offset=parts.offset,
            image_size=None if parts.offset is None else len(parts.image),
        )
    except BadField as error:
        return Reject(
            id=reject_id(source, parts.uri, parts.key), uri=parts.uri, reason=Reason.BAD_METADATA, detail=str(error)
        )


def reject_id(source: Source, uri: str, key: str) -> str:
    """The id a rejected sample would have had, where its name alone decides it; else its uri."""
    return storable(key) if source.id == "key" else uri
