"""Which road a vector search takes. Pure: numbers in, a frozen road out.

How far the index is searched was measured when it was built (`jobs.querying.curve`); the constants here stand in where
nobody did. Measured at a million rows (docs/search-speed.md): of an indexed search with Lance's own re-ranking three
quarters of the time is the re-ranking. So where it can be done here, the index only proposes rows, by its estimates;
which of them pass the filter and how near they truly are is settled afterwards.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying.at_hand.cells import GATHERED
from clipmill.jobs.querying.snapshot import VectorIndex

# Up to this many matching rows just those are compared, exactly. From the table that takes 10 to 16 us a row at the
# first question with a filter (docs/search-speed.md; they are kept for the next), but among so few the index misses
# many of the nearest.
EXACT_MATCHES = 6000
BASE_PROBES = 24
MAX_WIDENING = 16.0
# Of a large table reading a few more takes no longer than to look for them in all of the index: a row of what is read
# as long as some 500 estimates under a filter (ten million rows, beside other work: 390 ms through all of the index,
# 9,843 rows were read in 403; by hand, 2026-11-29). What was read is kept for the next question: at most so many rows,
# 20 MB of 512.
_READING_COST = 500
MOST_READ = 20_000
# Where Lance re-ranks: from this share of matching rows on it is cheaper to filter what the unfiltered search found.
POSTFILTER_SELECTIVITY = 0.2
REFINE = {5: 4, 1: 16}  # rows looked at for each that is wanted, by bits of IVF_RQ; other kinds 4
_CHANCE = 2.5  # standard deviations: so little passes by chance in one of a hundred searches
MAX_PROPOSED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """How one search is done.

    `probes`: partitions looked into. `refine`: Lance re-ranks this many times what is wanted; None: its distances are
    estimates. `proposed`: rows fetched before the filter is applied; 0: the filter comes first. `least`: of those,
    how many must pass for the answer to be trusted: fewer mean that the filter and the query are at odds.
    """

    use_index: bool
    probes: int | None = None
    refine: int | None = None
    ef: int | None = None
    proposed: int = 0
    least: int = 0

    @property
    def filter_first(self) -> bool:
        """Through an index of partitions, nothing proposed: all that pass are looked for, wherever they lie."""
        return self.use_index and not self.proposed and self.ef is None


def choose_road(index: VectorIndex | None, *, matches: int | None, total: int, depth: int, exact: bool) -> Road:
    """`matches`: rows that pass the filter, None without one. `depth`: rows wanted.

    A filter that has nothing to do with the vectors thins out every partition alike, so the nearest `depth` matches
    lie as deep as the nearest depth / selectivity rows.
    """
    if exact or index is None or (matches is not None and matches <= max(EXACT_MATCHES, depth)):
        return Road(use_index=False)
    refine = _refine(index)
    if index.kind.startswith("IVF_HNSW"):
        return Road(use_index=True, probes=index.num_partitions, refine=refine, ef=max(128, 2 * depth * refine))
    selectivity = 1.0 if matches is None else max(matches / max(total, 1), 1e-6)
    probes = _probes(index, selectivity, depth, filtered=matches is not None)
    if index.unindexed_rows:  # their true distances cannot be ranked together with the index's estimates
        if matches is not None and selectivity < POSTFILTER_SELECTIVITY:
            return widest(index)
        proposed = depth * math.ceil(2 / selectivity + 2) if matches is not None else 0
        least = depth if matches is not None else 0
        return Road(use_index=True, probes=probes, refine=refine, proposed=proposed, least=least)
    proposed = math.ceil(depth * refine / selectivity)
    if matches is not None and proposed > MAX_PROPOSED:
        reads = matches <= MOST_READ and matches * _READING_COST <= total
        return Road(use_index=False) if reads else widest(index)
    # Half of what passes of a filter that has nothing to do with the query.
    least = 0 if matches is None else depth * refine // 2
    return Road(use_index=True, probes=probes, proposed=proposed, least=least)


def widest(index: VectorIndex) -> Road:
    """Every partition, the filter first: for a filter whose rows lie far from the query, in any partition, and where
    nothing is proposed that would show whether they do."""
    return Road(use_index=True, probes=index.num_partitions, refine=_refine(index))


def in_memory(index: VectorIndex, road: Road, *, matches: int, total: int, rows: int | None = None) -> bool:
    """Whether comparing all that pass, with the vectors at hand, takes no longer than looking into the road's
    partitions, whose rows follow each other there: it misses nothing. `rows`: what that takes, where it is known."""
    return (min(matches * GATHERED, total) if rows is None else rows) <= rows_of(index, road, total)


def rows_of(index: VectorIndex, road: Road, total: int) -> float:
    """In the partitions that a road looks into, about."""
    return total * min(road.probes or index.num_partitions, index.num_partitions) / index.num_partitions


def at_odds(passes_N: npt.NDArray[np.bool_], selectivity: float) -> bool:
    """Whether a filter has to do with the query, by which of the nearest rows pass, best first.

    By chance as many pass as everywhere, near the query as well as further off. Where fewer than half do, and fewer
    than chance explains, in the first quarter, the first half or all of them, then those that pass further down are of
    other partitions, and nearer ones may be in any: amid 300 rows that all fail, 20 of 960 are found behind them.
    """
    for share in (0.25, 0.5, 1.0):
        looked = math.ceil(share * len(passes_N))
        by_chance = looked * selectivity
        least = min(by_chance / 2, by_chance - _CHANCE * math.sqrt(by_chance))
        if int(np.count_nonzero(passes_N[:looked])) < least:
            return True
    return False


def _refine(index: VectorIndex) -> int:
    return index.curve.refine if index.curve is not None else REFINE.get(index.bits, 4)


def _probes(index: VectorIndex, selectivity: float, depth: int, *, filtered: bool) -> int:
    """By the curve where there is one. A filter is trusted as long as half of what it lets through by chance is near
    (`least`), so with one the index is searched as deep as that half may lie."""
    if index.curve is not None:
        rank = depth / selectivity * (2 if filtered else 1)
        return min(index.curve.probes_for(rank), index.num_partitions)
    # Not measured: the square root of the selectivity, and of depths beyond 100.
    widening: float = min(MAX_WIDENING, selectivity**-0.5) * max(1.0, depth / 100) ** 0.5
    return min(math.ceil(BASE_PROBES * widening), index.num_partitions)
