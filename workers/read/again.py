"""Pictures of rows that are in a table, read again where they came from, many at a time and nothing for nothing.

Rows that lie near each other in one object are read by one ranged GET, up to PIECE_BYTES at once: a shard of which most
rows are wanted is streamed in large pieces, one of which few are costs a request for each picture. What lies between
two wanted pictures is read over where that is cheaper than another request. Compressed tars are read from their
beginning, parquet files by row groups, deflated members of a zip by its directory, Lance tables by runs of rows.
Whether a place may be read at all is not decided here, see `jobs.table.originals`.
"""

import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import xxhash

from clipmill.schemas.columns import UNSEEN_HASH
from clipmill.schemas.errors import SourceChanged, UserError, WrongFormat
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read.fetch import bytes_or_why, memory_share, ordered_map
from clipmill.workers.read.original import finder
from clipmill.workers.read.tars.tar import BadTar
from clipmill.workers.store.storage import TooManyBytes

# A request is worth so many bytes that nobody wants: of the usual store, a round trip's share with 32 under way.
GAP_BYTES = 32_000
PIECE_BYTES = 8_000_000
_UNKNOWN_BYTES = 1_000_000  # an object whose size the row does not say
_CHANGED = (Reason.SOURCE_CHANGED, "the bytes there are no longer those the row was made from")
PLACE = "place"  # in Sample.metadata: the row's number in its fragment


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where a row's picture is, as in `read.original.Place`; `place`: its number in the fragment."""

    place: int
    id: str
    uri: str
    offset: int | None
    size: int | None
    image_hash: str = ""
    caption: str | None = None
    orientation: int | None = None

    @property
    def is_vouched_for(self) -> bool:
        """An imported row, of whose bytes nobody took a hash: planned only where the caller named its place."""
        return self.image_hash.startswith(UNSEEN_HASH) and "#" not in self.uri

    def reject(self, reason: Reason, detail: str = "") -> Reject:
        return Reject(id=self.id, uri=self.uri, reason=reason, detail=detail)


@dataclass(slots=True, kw_only=True)
class Piece:
    """What is read at once: bytes [start, end) of an object, the whole of it, or one after the other (`packed`)."""

    uri: str
    rows: list[Row]
    start: int | None = None
    end: int = 0
    packed: bool = False

    @property
    def num_bytes(self) -> int:
        """To be read, as far as the rows say it."""
        if self.start is not None:
            return self.end - self.start
        return sum(max(row.size or 0, 0) for row in self.rows)


@dataclass(slots=True)
class Read:
    """What was asked of the store. Thread-safe through `add`."""

    requests: int = 0
    num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self.requests += 1
            self.num_bytes += num_bytes


def pieces(rows: Iterable[Row]) -> Iterator[Piece]:
    """What rows are read together, in their order. Pure."""
    piece: Piece | None = None
    for row in rows:
        new = _alone(row)
        if piece is not None and _together(piece, new):
            piece.rows.append(row)
            piece.end = new.end
            continue
        if piece is not None:
            yield piece
        piece = new
    if piece is not None:
        yield piece


def _alone(row: Row) -> Piece:
    whole, _, part = row.uri.partition("#")
    if not part:
        return Piece(uri=row.uri, rows=[row])
    if row.offset is None or row.size is None:
        return Piece(uri=whole, rows=[row], packed=True)
    return Piece(uri=whole, rows=[row], start=row.offset, end=row.offset + max(row.size, 0))


def _together(piece: Piece, new: Piece) -> bool:
    """Whether `new`, which comes after, is read with `piece`."""
    if piece.uri != new.uri:
        return False
    if piece.start is None or new.start is None:
        return piece.packed and new.packed
    return 0 <= new.start - piece.end <= GAP_BYTES and new.end - piece.start <= PIECE_BYTES


def read_again(
    rows: Iterable[Row], storage: Storage, limits: Limits, read: Read | None = None
) -> Iterator[Sample | Reject]:
    """Every row once: as the sample that it was made from, with its place in `metadata`, or as a reject that says why
    that cannot be had; `source_changed` where there are other bytes now. Nearly in the order of the rows. Raises
    StoreUnavailable."""
    count = read or Read()

    def fetch(piece: Piece) -> tuple[Piece, bytes | tuple[Reason, str]]:
        return piece, b"" if piece.packed else _fetch(piece, storage, limits, count)

    def weigh(piece: Piece) -> int:
        return 0 if piece.packed else piece.num_bytes or _UNKNOWN_BYTES

    for piece, got in ordered_map(pieces(rows), fetch, weigh=weigh, max_bytes=2 * memory_share(limits)):
        if piece.packed:
            yield from _packed(piece, storage, limits)
        elif isinstance(got, bytes):
            for row in piece.rows:
                first = 0 if piece.start is None else (row.offset or 0) - piece.start
                data = got if piece.start is None else got[first : first + (row.size or 0)]
                same = row.is_vouched_for or xxhash.xxh3_128_hexdigest(data) == row.image_hash
                yield _sample(row, data) if same else row.reject(*_CHANGED)
        else:
            yield from (row.reject(*got) for row in piece.rows)


def _sample(row: Row, data: bytes) -> Sample:
    return Sample(
        id=row.id,
        uri=row.uri,
        image=data,
        caption=row.caption,
        metadata={PLACE: row.place},
        orientation=row.orientation,
    )


def _fetch(piece: Piece, storage: Storage, limits: Limits, read: Read) -> bytes | tuple[Reason, str]:
    if piece.start is not None and (piece.start < 0 or piece.num_bytes <= 0):
        return Reason.SOURCE_CHANGED, "the row names no bytes"
    if len(piece.rows) == 1 and piece.num_bytes > limits.max_image_bytes:
        return Reason.TOO_MANY_BYTES, f"{piece.num_bytes:,} bytes, the limit is {limits.max_image_bytes:,}"
    try:
        if piece.start is None:
            got = bytes_or_why(piece.uri, storage, max_bytes=limits.max_image_bytes)
        else:
            part = (piece.start, piece.num_bytes)
            got = bytes_or_why(piece.uri, storage, max_bytes=piece.num_bytes, part=part)
    except SourceChanged as error:
        return Reason.SOURCE_CHANGED, error.message
    if isinstance(got, bytes):
        read.add(len(got))
    return got


def _packed(piece: Piece, storage: Storage, limits: Limits) -> Iterator[Sample | Reject]:
    """Rows of a compressed tar, a zip, a parquet file or a Lance table, in the order in which they are found."""
    waiting: dict[str, list[Row]] = {}
    for row in piece.rows:
        waiting.setdefault(row.uri.partition("#")[2], []).append(row)
    why = (Reason.NOT_FOUND, f"{piece.uri} does not hold it any more")
    others: dict[str, tuple[Reason, str]] = {}
    try:
        for part, data in finder(waiting)(piece.uri, waiting.keys(), storage, limits.max_image_bytes):
            if isinstance(data, TooManyBytes):
                others.setdefault(part, (Reason.TOO_MANY_BYTES, data.message))
                continue
            others[part] = _CHANGED
            image_hash = xxhash.xxh3_128_hexdigest(data)
            for row in [row for row in waiting[part] if row.image_hash == image_hash]:
                yield _sample(row, data)
                waiting[part].remove(row)
    except (OSError, EOFError, UserError, SourceChanged, WrongFormat, BadTar, zlib.error, pa.ArrowException) as error:
        why = _why(error, piece.uri)
    for part, rows in waiting.items():
        yield from (row.reject(*others.get(part, why)) for row in rows)


def _why(error: BaseException, uri: str) -> tuple[Reason, str]:
    """Raises again what only says that the store is away."""
    if isinstance(error, PermissionError):
        return Reason.FORBIDDEN, str(error)
    if isinstance(error, (FileNotFoundError, UserError)):
        return Reason.NOT_FOUND, str(error)
    if isinstance(error, OSError) and type(error).__name__ != "BadGzipFile":
        raise error
    return Reason.SOURCE_CHANGED, f"{uri} can no longer be read: {error}"
