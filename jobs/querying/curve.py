"""How far a vector index must be searched, as it was measured on the table's own vectors when the index was built.

A curve lies in the table's config, in the report of its column's index; releases that know none do not look at it, and
a table without one is searched by the constants of `jobs.querying.roads`. Whoever can write to a table can write any
curve into it, so one is believed only within bounds: at worst a search is slow, or finds what a poor index finds.
"""

import json
import logging
import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

logger = logging.getLogger(__name__)

CONFIG_KEY = "clipmill.index."  # then the column: the report of its index, JSON
MAX_POINTS = 32
MAX_REFINE = 64
_MAX_RANK = 1_000_000_000
_MAX_REPORT_CHARS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`probes[i]` partitions hold enough of the `ranks[i]` nearest rows; both ascend. `refine`: rows compared exactly
    for each that is wanted. The rest says what was measured: an index of another shape has another curve."""

    ranks: tuple[int, ...]
    probes: tuple[int, ...]
    refine: int
    kind: str
    num_partitions: int
    bits: int
    rows: int

    def probes_for(self, rank: float) -> int:
        """Partitions for the nearest `rank` rows: between two points by the logarithm of the rank, beyond the last one
        with the square root."""
        if rank <= self.ranks[0]:
            return self.probes[0]
        if rank >= self.ranks[-1]:
            return min(self.num_partitions, math.ceil(self.probes[-1] * math.sqrt(rank / self.ranks[-1])))
        right = bisect_left(self.ranks, rank)
        low, high = self.ranks[right - 1], self.ranks[right]
        share = math.log(rank / low) / math.log(high / low)
        return math.ceil(self.probes[right - 1] + share * (self.probes[right] - self.probes[right - 1]) - 1e-9)

    def is_of(self, kind: str, num_partitions: int, bits: int) -> bool:
        return (self.kind, self.num_partitions, self.bits) == (kind, num_partitions, bits)


def stored_report(dataset: Any, column: str = "vector") -> dict[str, Any] | None:
    """The report of the last build or extension of a column's index, as JSON values; None before the first, and, with a
    word, for what nobody can read."""
    text = dataset.config().get(CONFIG_KEY + column)
    if not text:
        return None
    try:
        report = json.loads(text) if len(text) <= _MAX_REPORT_CHARS else None
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        logger.warning("the report of the index of %s is damaged and not read; `clipmill index` writes it anew", column)
        return None
    return report


def stored_curve(dataset: Any, column: str) -> Curve | None:
    """The curve of a column's index; None where there is none, and, with a word, where it is out of bounds."""
    raw = (stored_report(dataset, column) or {}).get("curve")
    if raw is None:
        return None
    curve = curve_of(raw)
    if curve is None:
        logger.warning(
            "what was measured of the index of %s is damaged and not used; `clipmill index` measures it anew", column
        )
    return curve


def curve_of(raw: Any) -> Curve | None:
    """From JSON; None for what could not have been measured."""
    if not isinstance(raw, dict) or not isinstance(kind := raw.get("kind"), str):
        return None
    ranks, probes = _whole(raw.get("ranks")), _whole(raw.get("probes"))
    single = _whole([raw.get(name) for name in ("refine", "num_partitions", "bits", "rows")])
    if ranks is None or probes is None or single is None or not 1 <= len(ranks) == len(probes) <= MAX_POINTS:
        return None
    refine, num_partitions, bits, rows = single
    ascend = all(a < b for a, b in pairwise(ranks)) and all(a <= b for a, b in pairwise(probes))
    within = ranks[0] >= 1 and ranks[-1] <= _MAX_RANK and probes[0] >= 1 and probes[-1] <= num_partitions
    if not (ascend and within and 1 <= refine <= MAX_REFINE and bits >= 0 and rows >= 0):
        return None
    return Curve(
        ranks=ranks, probes=probes, refine=refine, kind=kind, num_partitions=num_partitions, bits=bits, rows=rows
    )


def _whole(values: Any) -> tuple[int, ...] | None:
    """Whole numbers of a list; None where anything else is among them (True is a number to Python)."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        return None
    return tuple(values)
