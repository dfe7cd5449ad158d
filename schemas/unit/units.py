"""Work units: a slice of one source object, named by its content and never by its position."""

import hashlib
import json
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final, Literal

IMPORTED: Final = "import"  # format of units whose vectors somebody else computed
Format = Literal["webdataset", "zip", "files", "parquet", "lance", "manifest", "log", "fill", "import"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """An object as a listing shows it. `etag` is the store's, or `size-mtime_ns` where there is none."""

    uri: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """A slice that one actor call turns into rows. Printable, hashable.

    What `start` and `end` mean follows the format:

    | format     | uri         | etag                         | start, end                                      |
    |------------|-------------|------------------------------|-------------------------------------------------|
    | webdataset | the tar     | the tar's                    | byte offsets of headers; both empty: whole tar  |
    | zip        | the archive | the archive's                | byte offsets of headers; both empty: all of it  |
    | parquet    | the file    | the file's                   | row groups [start, end)                         |
    | lance      | the table   | digest of files and rows     | fragment:place and place@version, in [start, end) |
    | files      | the prefix  | digest of keys and etags     | keys (start, end], relative to the prefix       |
    | manifest   | the list    | digest of the unit's lines   | byte offsets [start, end), or row numbers       |
    | log        | the log     | the log's                    | both empty                                      |
    | fill       | the rows    | the rows' version            | a fragment's id; JSON list of rows left out     |
    | import     | the vectors | digest of the files' etags   | a Lance table's fragment and version; else empty |

    A fill of some rows of a fragment alone has `id:first-last` of their places, the last excluded.

    `num_samples` is exact for files, zip, lance and manifest, an estimate elsewhere, None where nothing is known.
    `first_line` is the number, from 1, of the line at which a slice of a text list begins; 0 elsewhere. It is in no id:
    what is added above a slice does not rename it. `limit`: only so many of its samples, the first, for a trial.
    """

    unit_id: str
    format: Format
    uri: str
    etag: str
    size_bytes: int
    start: str = ""
    end: str = ""
    num_samples: int | None = None
    first_line: int = 0
    limit: int | None = None


def make_unit_id(uri: str, etag: str, span: str, reader_options: dict[str, Any]) -> str:
    """24 hex digits of SHA-256 over what decides the unit's pixels and captions.

    `span` is the slice's own name: byte offsets or row groups for tars and parquet; empty for files and manifest,
    whose `etag` is already a digest of what the slice holds (so that an insertion elsewhere renames nothing).
    """
    return UnitNames(reader_options)(uri, etag, span)


class UnitNames:
    """`make_unit_id` for many units of one source: the options are written out once. The text that is hashed is that of
    `json.dumps([uri, etag, span, reader_options], sort_keys=True, ensure_ascii=False)`."""

    def __init__(self, reader_options: dict[str, Any]) -> None:
        self._end = f", {json.dumps(reader_options, sort_keys=True, ensure_ascii=False)}]"

    def __call__(self, uri: str, etag: str, span: str) -> str:
        parts = f"[{encode_basestring(uri)}, {encode_basestring(etag)}, {encode_basestring(span)}{self._end}"
        return hashlib.sha256(parts.encode()).hexdigest()[:24]
