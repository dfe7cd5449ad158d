"""Which vector index a column gets. Pure: sizes in, a frozen plan out.

| index | bytes per vector in memory | when |
|---|---|---|
| none | 0 (2 D are read per query) | up to `SMALL_BYTES`: an exact scan answers in tens of milliseconds |
| IVF_RQ, 5 bits | 5 D / 8 | the default |
| IVF_RQ, 1 bit | D / 8 | where 5 bits would not fit the memory budget |
| IVF_HNSW_SQ | D + links | where asked for |
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

SMALL_BYTES = 16_000_000
ROWS_PER_PARTITION = 256
USUAL_PARTITIONS = 1000
MAX_PARTITIONS = 65_536
HNSW_ROWS_PER_PARTITION = 250_000
SEGMENT_ROWS = (250_000, 4_000_000)  # built in one go, least and most: bounds memory and what a crash can lose
SEGMENTS = 100  # of a large table, as long as none is too large: every one has all partitions, and is merged in the end
RQ_BITS = (5, 1)
MEMORY_BYTES = 4_000_000_000  # of the index in a query process, where nobody says

Kind = Literal["auto", "none", "ivf_rq", "hnsw_sq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPlan:
    """`kind` as Lance names it, empty for none. `bits` per dimension of IVF_RQ."""

    kind: str
    num_partitions: int = 1
    bits: int = 0

    def serves(self, existing: "VectorPlan", tolerance: float = 4.0) -> bool:
        """Whether an existing index of `existing` shape may be extended rather than trained anew. More partitions than
        are wanted cost little: an older release made four times the square root of the rows."""
        ratio = self.num_partitions / max(existing.num_partitions, 1)
        same = self.kind == existing.kind and self.bits == existing.bits
        return same and 1 / (2 * tolerance) <= ratio <= tolerance


def plan_vector_index(rows: int, dim: int, kind: Kind, memory_bytes: int) -> VectorPlan:
    """`rows`: those with a vector. `memory_bytes`: what a query process may keep of the index in memory."""
    if kind == "none" or rows == 0 or (kind == "auto" and rows * dim * 2 <= SMALL_BYTES):
        return VectorPlan(kind="")
    if kind == "hnsw_sq":
        return VectorPlan(kind="IVF_HNSW_SQ", num_partitions=max(1, math.ceil(rows / HNSW_ROWS_PER_PARTITION)))
    # As many as a million rows have, as soon as each then holds some: 200,000 of 1,500 kinds were looked into by 112 of
    # 195 partitions, and by one of 781. Above a million they grow with the square root: every search compares all
    # centroids, every row was compared with all of them, and so ten million do not cost a search ten times as much.
    partitions = min(rows // ROWS_PER_PARTITION, max(USUAL_PARTITIONS, math.isqrt(rows)), MAX_PARTITIONS)
    bits = next((b for b in RQ_BITS if rows * dim * b / 8 <= memory_bytes), RQ_BITS[-1])
    return VectorPlan(kind="IVF_RQ", num_partitions=max(1, partitions), bits=bits)


def rows_per_segment(rows: int) -> int:
    """How many of a table's `rows` one segment takes."""
    least, most = SEGMENT_ROWS
    return min(most, max(least, rows // SEGMENTS))


def kept_plan(existing: VectorPlan, rows: int, dim: int, memory_bytes: int | None) -> VectorPlan:
    """What an index that is there should be for so many rows: of its own kind, and of its own bits unless a memory
    budget is given. A kind that is not made here is left as it is; rows are only added to it."""
    if existing.kind == "IVF_RQ":
        fresh = plan_vector_index(rows, dim, "ivf_rq", memory_bytes if memory_bytes is not None else MEMORY_BYTES)
        return fresh if memory_bytes is not None else replace(fresh, bits=existing.bits)
    if existing.kind == "IVF_HNSW_SQ":
        return plan_vector_index(rows, dim, "hnsw_sq", 0)
    return existing
