"""The pictures that rows were made from, read again where they came from, and from nowhere else.

A row's `uri` is somebody else's word: whoever can write a table, or hand one over, can write any address into it. So

- a row is read only where the ledger says its unit came from: the very tar or parquet file, a name that the unit's
  folder or glob covers, a link that the unit's slice of the list really holds; `allow` adds places to that;
- a ledger is somebody's word too. A table in an object store never reaches files of this machine, and none reaches a
  host of a private network, unless `allow` names them;
- the bytes must have the row's `image_hash` (`read.original`), but for imported rows at a place that `allow` names, of
  which nobody took a hash; and only plain files are opened (`store.fs`).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from clipmill.jobs.table import ledger
from clipmill.jobs.table.runs import last_job, last_source
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import ORIENTATION, UNSEEN_HASH, has_orientation
from clipmill.schemas.errors import ClipmillError, SourceChanged, UserError
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import Format, WorkUnit
from clipmill.workers.read.folders.keys import pattern_of
from clipmill.workers.read.lists.links import linked_uris
from clipmill.workers.read.orientation import stamped
from clipmill.workers.read.original import MAX_BYTES, NotTheBytes, Place, fetch_any, fetch_image
from clipmill.workers.read.remote import BadUri, refuse_private
from clipmill.workers.store.uri import Pattern, absolute_uri, has_magic, parse_pattern, split_uri

_COLUMNS = ("id", "uri", "unit_id", "image_offset", "image_size", "image_hash")
STORES = frozenset({"s3", "gs", "az", "abfs", "abfss"})
SCHEMES = STORES | {"file", "http", "https", "hf"}
_LISTS_KEPT = 64  # units whose links are remembered, some thousand each


def place_columns(schema: Any) -> tuple[str, ...]:
    """What `Originals.read` needs of a row of such a table."""
    return (*_COLUMNS, ORIENTATION) if has_orientation(schema) else _COLUMNS


class NotOfSource(UserError):
    """The row names a place that is not of its table's source, so it was not opened."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is kept of a unit: little, because a table may have 100,000."""

    format: Format
    uri: str
    start: str
    end: str


class Originals:
    """Thread-safe. `allow`: further places: one object, a folder and all below it, or a glob."""

    def __init__(self, tables: Tables, allow: Sequence[str] = ()) -> None:
        self._tables = tables
        self._is_local = is_local(tables)
        self._storage = source_storage(tables)
        self._allow = [_covers(place) for place in allow]
        self._units: dict[str, _Unit] = {}
        self._units_version = -1
        self._links: OrderedDict[str, frozenset[int]] = OrderedDict()
        self._source: Source | None = None
        self._lock = threading.Lock()

    def read(self, row: Mapping[str, Any], *, max_bytes: int = MAX_BYTES) -> bytes:
        """The encoded bytes that the row was made from, with the orientation that its source says; `row` has
        `place_columns`.

        Raises NotOfSource, NotTheBytes, and UserError for whatever else cannot be read.
        """
        self.check(row)
        if self._is_allowed(str(row["uri"])) and str(row["image_hash"]).startswith(UNSEEN_HASH):
            return self._unproved(row, max_bytes)  # imported: its bytes have no hash here, and the reader vouches
        place = Place(
            uri=str(row["uri"]), offset=row["image_offset"], size=row["image_size"], image_hash=str(row["image_hash"])
        )
        image = _told(place.uri, lambda: fetch_image(place, self._storage, max_bytes=max_bytes))
        return stamped(image, row.get(ORIENTATION))

    def read_unproved(self, row: Mapping[str, Any], *, max_bytes: int = MAX_BYTES) -> bytes:
        """What lies at the `uri` of a reject, which has neither place nor hash; of several parquet columns the first.

        For what only the reader's own tables say, or places that the reader named: nothing proves that who wrote the
        reject ever saw the bytes. Raises as `read` does.
        """
        self.check(row)
        return self._unproved(row, max_bytes)

    def _unproved(self, row: Mapping[str, Any], max_bytes: int) -> bytes:
        uri = str(row["uri"])
        return _told(uri, lambda: fetch_any(uri, self._storage, max_bytes=max_bytes))

    def _is_allowed(self, uri: str) -> bool:
        """By `allow`, whatever the ledger says."""
        whole = uri.partition("#")[0]
        return any(covers(whole) for covers in self._allow)

    def check_imported(self, row: Mapping[str, Any]) -> None:
        """Raises NotOfSource for an imported row, whose bytes nobody saw, unless `allow` vouches for its picture."""
        uri = str(row["uri"])
        if "#" in uri or not self._is_allowed(uri):
            raise _refusal(uri)("the row was imported, and nothing tells which bytes its picture was")

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises NotOfSource for a row whose picture may not be read."""
        uri = str(row["uri"])
        whole = uri.partition("#")[0]
        if self._is_allowed(uri):
            return
        refuse = _refusal(uri)
        scheme = split_uri(whole)[0]
        if scheme not in SCHEMES:
            raise refuse(f"addresses of {scheme}:// are not read")
        unit = self._unit(str(row["unit_id"]))
        if unit is None:
            raise refuse("its unit is not in the ledger")
        if not self._is_local and "file" in (scheme, split_uri(unit.uri)[0]):
            raise refuse("a table in a store does not reach files of this machine")
        if scheme in ("http", "https"):
            try:
                refuse_private(whole)
            except BadUri as error:
                raise refuse(str(error)) from None
        if not self._is_of(unit, str(row["unit_id"]), uri):
            raise refuse(f"its unit is of {unit.uri}")

    def _is_of(self, unit: _Unit, unit_id: str, uri: str) -> bool:
        told = is_of_unit(unit.format, unit.uri, uri)
        return hash(uri) in self._linked(unit, unit_id) if told is None else told

    def _unit(self, unit_id: str) -> _Unit | None:
        """Retired units are found as well: a reader may stand at an older version."""
        with self._lock:
            if unit_id not in self._units:
                self._read_ledger()
            return self._units.get(unit_id)

    def _read_ledger(self) -> None:
        dataset = self._tables.open("units", missing_ok=True)
        version = int(dataset.version) if dataset is not None else 0
        if version == self._units_version:
            return
        entries = ledger.read_ledger(self._tables)
        self._units = {name: _Unit(e.format, e.uri, e.start, e.end) for name, e in entries.items()}
        self._units_version = version

    def _linked(self, unit: _Unit, unit_id: str) -> frozenset[int]:
        """Hashes of the URIs that the unit's slice of its list names; none where the list is gone."""
        with self._lock:
            if unit_id in self._links:
                self._links.move_to_end(unit_id)
                return self._links[unit_id]
            self._source = self._source or self._last_source(unit)
            source = self._source
        work = WorkUnit(
            unit_id=unit_id,
            format=unit.format,
            uri=unit.uri,
            etag="",
            size_bytes=0,
            start=unit.start,
            end=unit.end,
        )
        try:
            found = frozenset(hash(uri) for uri in linked_uris(work, source, self._storage))
        except (ClipmillError, OSError, ValueError):  # gone, or no list any more: then it names nothing
            found = frozenset()
        with self._lock:
            self._links[unit_id] = found
            while len(self._links) > _LISTS_KEPT:
                self._links.popitem(last=False)
        return found

    def _last_source(self, unit: _Unit) -> Source:
        return last_source(self._tables) or Source.model_validate({"format": unit.format, "uri": unit.uri})


def _told(uri: str, read: Callable[[], bytes]) -> bytes:
    """What `read` gives, or why not, as what every caller knows."""
    try:
        return read()
    except UserError:
        raise
    except SourceChanged as error:
        raise NotTheBytes(f"{uri} was replaced while it was read", error.hint) from error
    except (OSError, ValueError, ClipmillError) as error:
        raise UserError(f"{uri} cannot be read ({type(error).__name__})", "is its store up?") from error


def is_local(tables: Tables) -> bool:
    """Whether the table lies on a disk of this machine, and so is taken for the reader's own."""
    return split_uri(tables.database)[0] == "file"


def source_storage(tables: Tables) -> Storage:
    """The store of the table's source: as the table was opened, or, where that names no server and the table is the
    reader's own, as its last job says. A table in a store does not say to which host a reader's requests are signed."""
    if tables.storage.endpoint_url or not is_local(tables):
        return tables.storage
    try:
        return Storage.model_validate(last_job(tables).get("storage") or {})
    except ValueError:  # of another release
        return tables.storage


def is_of_unit(form: str, unit_uri: str, uri: str) -> bool | None:
    """Whether a row's `uri` lies in a unit of that format and uri; None where only its list can tell."""
    whole, _, part = uri.partition("#")
    if form in ("webdataset", "zip"):
        return part != "" and whole == unit_uri
    if form == "files":
        return part == "" and _matches(_pattern(unit_uri), whole)
    if form in ("parquet", "lance") and whole == unit_uri:
        return part.startswith("row=" if form == "parquet" else "fragment=")
    return None if form in ("parquet", "lance", "manifest") else False


_pattern = lru_cache(maxsize=256)(pattern_of)


def why(error: UserError) -> str:
    """The kind of a refusal, in the few words that reports count by."""
    if isinstance(error, NotOfSource):
        return "not of this table's source"
    if isinstance(error, NotTheBytes):
        return "no longer the bytes it was made from"
    return "cannot be read"


def _refusal(uri: str) -> Callable[[str], NotOfSource]:
    folder = uri.partition("#")[0].rpartition("/")[0]
    hint = f"if you trust it: --allow-source '{folder}/'" if folder else "it is left out"
    return lambda reason: NotOfSource(f"{uri} is not of this table's source: {reason}", hint)


def _covers(place: str) -> Callable[[str], bool]:
    uri = absolute_uri(place)
    scheme, path = split_uri(uri)
    if scheme not in ("http", "https") and has_magic(path):
        pattern = parse_pattern(scheme, path)
        return lambda whole: _lies_in(uri, whole) or _matches(pattern, whole)
    return lambda whole: _lies_in(uri, whole)


def _lies_in(folder: str, uri: str) -> bool:
    """Whether `uri` is `folder` itself or below it, as both are written."""
    return absolute_uri(uri) == folder or absolute_uri(uri).startswith(folder.rstrip("/") + "/")


def _matches(pattern: Pattern, uri: str) -> bool:
    scheme, path = split_uri(uri)
    if scheme != pattern.scheme or not path.startswith(pattern.root):
        return False
    name = path[len(pattern.root) :]
    return name.startswith(pattern.prefix) and (pattern.deep or "/" not in name) and pattern.matches(name)
