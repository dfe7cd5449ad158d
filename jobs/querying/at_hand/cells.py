"""The partitions of a column's index, as a server holds its rows by them.

P: partitions. I: rows in the index. M: rows asked for. D: dimension.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying.vectors import Floats, Ids

Span = tuple[int, int]  # of places: the first, and the one behind the last

# A row amid others that are not asked for takes some five times as long to compare as one in a row with them (100 and
# 20 ns of 512 numbers; by hand, 2026-11-29, an EPYC of family 25, beside other work).
GATHERED = 5


@dataclass(frozen=True, slots=True)
class Indexed:
    """Which partition each row of the index is in."""

    centroids_PD: Floats
    sorted_I: Ids
    partition_I: npt.NDArray[np.int32]

    def partitions(self, row_ids_M: Ids) -> npt.NDArray[np.int32]:
        """(M,); P for a row that is in none."""
        none = np.int32(len(self.centroids_PD))
        if not len(self.sorted_I):
            return np.full(len(row_ids_M), none)
        place_M = np.minimum(np.searchsorted(self.sorted_I, row_ids_M), len(self.sorted_I) - 1)
        return np.where(self.sorted_I[place_M] == row_ids_M, self.partition_I[place_M], none)


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows `starts[p]` to `starts[p + 1]` of those at hand are in partition p; those behind the last one in none, so
    that they are always looked at."""

    centroids_PD: Floats
    starts: npt.NDArray[np.int64]  # (P + 2,)

    @classmethod
    def of(cls, indexed: Indexed, partition_N: npt.NDArray[np.int32]) -> "Cells":
        """`partition_N`: of the rows at hand, in any order."""
        counts = np.bincount(partition_N, minlength=len(indexed.centroids_PD) + 1)
        return cls(indexed.centroids_PD, np.concatenate([[0], np.cumsum(counts)]))

    @property
    def in_partitions(self) -> int:
        """Rows of those at hand."""
        return int(self.starts[-2])

    def nearest(self, vector_D: Floats, probes: int) -> list[Span]:
        """Where rows begin and end of the `probes` partitions nearest to a unit vector, nearest first."""
        near_P = np.einsum("pd,d->p", self.centroids_PD, vector_D)
        probes = min(probes, len(near_P))
        chosen = np.argpartition(-near_P, probes - 1)[:probes]
        chosen = chosen[np.argsort(-near_P[chosen])]
        return list(zip(self.starts[chosen].tolist(), self.starts[chosen + 1].tolist(), strict=True))

    def joined(self, spans: list[Span]) -> list[Span]:
        """Those and what is in no partition, ascending; those that follow each other as one."""
        found: list[Span] = []
        for start, stop in [*sorted(spans), (int(self.starts[-2]), int(self.starts[-1]))]:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            elif stop > start:
                found.append((start, stop))
        return found
