"""Pictures for a page: of rows, and of rejects where their bytes can be read. Bounded in number, bytes and time.

Everything is decoded and encoded again before it goes into the page, so nothing but a picture can. Whether a place may
be read at all is decided by `table.originals`.
"""

import base64
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipmill.jobs.querying.filters import quote
from clipmill.jobs.querying.open import Table
from clipmill.jobs.table.originals import Originals, is_local, place_columns, why
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.samples import BadImage

MAX_PICTURE_BYTES = 400_000  # of a stored thumbnail, which is somebody's word
PAGE_BYTES = 4_000_000  # of all thumbnails of a page together, before base64
READ_BYTES = 20_000_000
READING_S = 30.0  # for all originals of a page; what is not read by then has no picture
SHOWN_REJECTS = 24
_LIMITS = Limits(max_image_bytes=READ_BYTES, max_pixels=50_000_000)
REJECT_COLUMNS = ["reason", "id", "uri", "detail", "unit_id", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A row or a reject. `picture`: WebP, None where there is none, and `no_picture` says why. `said`: caption, or the
    detail of a reject."""

    id: str
    uri: str
    said: str = ""
    tags: tuple[str, ...] = ()
    reason: str = ""
    score: float | None = None
    picture: bytes | None = field(default=None, repr=False)
    no_picture: str = ""

    @property
    def data_uri(self) -> str:
        return "data:image/webp;base64," + base64.b64encode(self.picture or b"").decode("ascii")


class Pictures:
    """Thumbnails for one page. `allow`: places beside the table's own source, as `Originals` takes them."""

    def __init__(self, table: Table, tables: Tables, allow: Sequence[str] = ()) -> None:
        self._table = table
        self._originals = Originals(tables, allow)
        self._may_read_rejects = is_local(tables) or bool(allow)
        self._bytes_left = PAGE_BYTES
        self._until = time.monotonic() + READING_S

    def rows(self, ids: Sequence[str], scores: Mapping[str, float | None] | None = None) -> tuple[Shown, ...]:
        """In the order of the ids; those that are not there are left out."""
        stored = ["thumbnail"] if "thumbnail" in self._table.schema.names else []
        wanted = list(dict.fromkeys([*place_columns(self._table.schema), "caption", "tags", *stored]))
        return tuple(
            self._shown(row, said=row["caption"] or "", score=(scores or {}).get(row["id"]), proved=True)
            for row in (self._table.get(list(ids), wanted).to_pylist() if ids else [])
        )

    def rejects(self, rejects: Iterable[Mapping[str, Any]]) -> tuple[Shown, ...]:
        """Each a row of REJECT_COLUMNS."""
        return tuple(self._shown(one, said=one["detail"], reason=one["reason"], proved=False) for one in rejects)

    def _shown(
        self, row: Mapping[str, Any], *, said: str, proved: bool, reason: str = "", score: float | None = None
    ) -> Shown:
        picture, lack = self._picture(row, proved)
        return Shown(
            id=str(row["id"]),
            uri=str(row["uri"]),
            said=said,
            tags=tuple(row.get("tags") or ()),
            reason=reason,
            score=score,
            picture=picture,
            no_picture=lack,
        )

    def _picture(self, row: Mapping[str, Any], proved: bool) -> tuple[bytes | None, str]:
        from clipmill.workers.decode.picture import decode, thumbnail

        if self._bytes_left <= 0:
            return None, "enough pictures on this page"
        data = row.get("thumbnail")
        try:
            if not data or len(data) > MAX_PICTURE_BYTES:
                data = self._original(row, proved)
            made = thumbnail(decode(data, _LIMITS, target_px=256).pixels_HWC)
        except BadImage as bad:
            return None, f"cannot be decoded ({bad.reason})"
        except UserError as error:
            return None, error.message if isinstance(error, _NotRead) else why(error)
        self._bytes_left -= len(made)
        return made, ""

    def _original(self, row: Mapping[str, Any], proved: bool) -> bytes:
        if time.monotonic() > self._until:
            raise _NotRead("not read in time")
        if proved:
            return self._originals.read(row, max_bytes=READ_BYTES)
        if not self._may_read_rejects:
            # A row proves by its hash that who wrote it had seen the bytes; a reject has none. So a table in a store,
            # which others may write, does not choose which objects of the reader's are opened.
            raise _NotRead("read only with --allow-source")
        return self._originals.read_unproved(row, max_bytes=READ_BYTES)


class _NotRead(UserError):
    """Not even tried."""


def reject_rows(tables: Tables, runs: Collection[str] | None = None) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Counts by reason, the commonest first, and up to SHOWN_REJECTS of them, of each reason in turn. `runs`: only
    of these."""
    counts: dict[str, int] = {}
    kept: dict[str, list[dict[str, Any]]] = {}
    where = None if runs is None else f"run IN ({', '.join(map(quote, sorted(runs)))})" if runs else "false"
    for batch in counted_rejects(tables, REJECT_COLUMNS, where):
        for row in _counted(batch, counts):
            mine = kept.setdefault(row["reason"], [])
            if len(mine) < SHOWN_REJECTS:
                mine.append(row)
    ordered = sorted(counts, key=lambda reason: (-counts[reason], reason))
    turns = [kept[reason][n] for n in range(SHOWN_REJECTS) for reason in ordered if n < len(kept[reason])]
    shown = sorted(turns[:SHOWN_REJECTS], key=lambda row: ordered.index(row["reason"]))
    return {reason: counts[reason] for reason in ordered}, shown


def _counted(batch: pa.RecordBatch, counts: dict[str, int]) -> list[dict[str, Any]]:
    for pair in batch.column("reason").value_counts().to_pylist():
        counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
    rows: list[dict[str, Any]] = batch.slice(0, 4 * SHOWN_REJECTS).to_pylist()
    return rows
