"""What a fill has left to do: fragments, their rows, and what reading their pictures again will cost. Reads only."""

import itertools
import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.table.originals import NotOfSource, Originals
from clipmill.schemas.columns import UNSEEN_HASH, set_column
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.again import GAP_BYTES, PIECE_BYTES, Row, pieces

# Fewer units leave models idle, and one alone a model while its pictures are decoded: fragments are shared then. Not
# more often, because what is shared goes through the driver; and of fewer rows each, a unit costs more than it gains.
UNITS = 24
LEAST_ROWS = 1_000
ROWS_PER_TASK = 20_000  # of one fragment: what a kill can lose, and what a worker holds of vectors
_COLUMNS = ("id", "uri", "unit_id", "image_offset", "image_size", "image_hash")
Failures = Mapping[tuple[str, str], str]


@dataclass(slots=True, kw_only=True)
class Reading:
    """`pictures` are fetched with `requests` GETs, `bytes` in all, of which `image_bytes` are pictures. `streamed`:
    those read in pieces together with others, `ranged`: alone. `unsized`: those of compressed tars, parquet files and
    lists, whose bytes the table does not know. `why` says what decided."""

    pictures: int = 0
    streamed: int = 0
    ranged: int = 0
    unsized: int = 0
    requests: int = 0
    bytes: int = 0
    image_bytes: int = 0
    why: str = ""

    def add(self, rows: list[Row]) -> None:
        for piece in pieces(rows):
            number = len(piece.rows)
            self.pictures += number
            self.requests += 1
            self.bytes += piece.num_bytes
            self.image_bytes += sum(max(row.size or 0, 0) for row in piece.rows)
            if piece.packed or not piece.num_bytes:
                self.unsized += number
            elif number > 1:
                self.streamed += number
            else:
                self.ranged += number

    def explain(self) -> None:
        self.why = (
            f"pictures at most {GAP_BYTES:,} bytes apart in one object are read together, up to {PIECE_BYTES:,} bytes "
            "a request; those further apart are asked for alone"
        )


@dataclass(slots=True, kw_only=True)
class FillPlan:
    """`units`: one for each fragment with rows to fill, or several where there are few; then `shared` says how many
    there are of a fragment. `refused`: rows whose place may not be read, by their unit.
    `failed`: rows that were tried before and cannot be filled."""

    units: list[WorkUnit] = field(default_factory=list)
    shared: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    failed: int = 0
    refused: list[tuple[str, Reject]] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)


def plan_fill(rows: Any, slug: str, originals: Originals, failed: Failures) -> FillPlan:
    """`rows`: the table at the version that is planned on. Where it has no such set yet, every row is to be filled.
    Memory holds one fragment's rows, and 16 bytes of each that is to be filled."""
    plan = FillPlan()
    column = set_column("vector", slug)
    where = f"{column} IS NULL" if column in rows.schema.names else None
    may_read = _Allowed(originals)
    found: list[_Share] = []
    for fragment in rows.get_fragments():
        wanted: list[Row] = []
        left_out: list[int] = []
        for row in _rows_of(fragment, where):
            place = int(row["_rowaddr"]) & 0xFFFFFFFF
            if (row["id"], row["unit_id"]) in failed:
                plan.failed += 1
                left_out.append(place)
            elif reason := may_read.refusal(row):
                plan.refused.append(
                    (row["unit_id"], Reject(id=row["id"], uri=row["uri"], reason=Reason.BAD_URI, detail=reason))
                )
                left_out.append(place)
            else:
                wanted.append(
                    Row(place=place, id=row["id"], uri=row["uri"], offset=row["image_offset"], size=row["image_size"])
                )
        if wanted:
            plan.reading.add(wanted)
            plan.rows += len(wanted)
            found.append(_Share(fragment.fragment_id, wanted[:ROWS_PER_TASK], left_out))
    for share in found:
        parts = share.split(min(-(-UNITS // len(found)), len(share.places) // LEAST_ROWS))
        plan.units += [part.unit(rows, alone=len(parts) == 1) for part in parts]
        if len(parts) > 1:
            plan.shared[share.fragment] = len(parts)
    plan.reading.explain()
    return plan


def _rows_of(fragment: Any, where: str | None) -> Iterator[dict[str, Any]]:
    scanner = fragment.scanner(columns=list(_COLUMNS), filter=where, with_row_address=True, batch_size=4096)
    for batch in scanner.to_batches():
        yield from batch.to_pylist()


class _Share:
    """Rows of a fragment that one unit is to fill, by place and size in bytes; and those it must leave out."""

    def __init__(self, fragment: int, rows: list[Row], left_out: list[int]) -> None:
        self.fragment = fragment
        self.places = array("Q", (row.place for row in rows))
        self.sizes = array("Q", (max(row.size or 0, 0) for row in rows))
        self.left_out = left_out

    def split(self, number: int) -> list["_Share"]:
        """Into at most so many, of one row's difference."""
        if number <= 1:
            return [self]
        found = []
        for begin, end in itertools.pairwise(len(self.places) * n // number for n in range(number + 1)):
            part = _Share(self.fragment, [], [])
            part.places, part.sizes = self.places[begin:end], self.sizes[begin:end]
            part.left_out = [place for place in self.left_out if part.places[0] <= place <= part.places[-1]]
            found.append(part)
        return found

    def unit(self, rows: Any, *, alone: bool) -> WorkUnit:
        name = str(self.fragment) if alone else f"{self.fragment}:{self.places[0]}-{self.places[-1] + 1}"
        return WorkUnit(
            unit_id=f"fragment-{name.replace(':', '-')}-{rows.version}",
            format="fill",
            uri=str(rows.uri),
            etag=str(rows.version),
            size_bytes=sum(self.sizes),
            start=name,
            end=json.dumps(self.left_out) if self.left_out else "",
            num_samples=len(self.places),
            limit=ROWS_PER_TASK,
        )


class _Allowed:
    """Asks `Originals.check` once for all pictures of one object and unit."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals
        self._known: tuple[tuple[str, str, bool], str] | None = None

    def refusal(self, row: Mapping[str, Any]) -> str:
        if str(row["image_hash"]).startswith(UNSEEN_HASH):
            return self._refusal_of(row, self._originals.check_imported)
        whole, _, part = str(row["uri"]).partition("#")
        key = (str(row["unit_id"]), whole, part.startswith("row="))
        if part and self._known is not None and self._known[0] == key:
            return self._known[1]
        said = self._refusal_of(row, self._originals.check)
        self._known = (key, said)
        return said

    @staticmethod
    def _refusal_of(row: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]) -> str:
        try:
            check(row)
        except NotOfSource as error:
            return error.message
        return ""
