"""The partitions of a column's index, as a server holds its rows by them.

P: partitions. I: rows in the index. M: rows asked for. D: dimension.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.vectors import Floats, Ids, normalise

_READS = 16  # of partitions at once: in a store each waits for an answer or two


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
        """`partition_N`: of the rows at hand, ascending."""
        counts = np.bincount(partition_N, minlength=len(indexed.centroids_PD) + 1)
        return cls(indexed.centroids_PD, np.concatenate([[0], np.cumsum(counts)]))

    def spans(self, vector_D: Floats, probes: int) -> list[tuple[int, int]]:
        """Where rows begin and end of the `probes` partitions nearest to a unit vector, and of what is in none; those
        that follow each other as one, ascending."""
        near_P = np.einsum("pd,d->p", self.centroids_PD, vector_D)
        probes = min(probes, len(near_P))
        chosen = np.argpartition(-near_P, probes - 1)[:probes]
        found: list[tuple[int, int]] = []
        for p in [*np.sort(chosen).tolist(), len(near_P)]:
            start, stop = int(self.starts[p]), int(self.starts[p + 1])
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            elif stop > start:
                found.append((start, stop))
        return found


def read(snapshot: Snapshot, column: str) -> Indexed | None:
    """None without an index, for one whose partitions are graphs or were trained apart, for one of other distances, and
    for one that Lance does not read this way or that cannot be of this table."""
    index = snapshot.vector_index(column)
    if index is None or not index.kind.startswith("IVF") or index.kind.startswith("IVF_HNSW"):
        return None
    dataset = snapshot.dataset
    try:
        parts = dataset.stats.index_stats(index.name).get("indices") or []
        if any(str(part.get("metric_type")).lower() != "cosine" for part in parts):
            return None
        stored = dataset.get_ivf_model(index.name).centroids
        if stored is None or len(stored) != index.num_partitions:
            return None
        flat = np.asarray(stored.flatten()).astype(np.float32)
        with ThreadPoolExecutor(_READS) as pool:
            read_one = dataset._ds.read_index_partition
            ids = list(pool.map(lambda p: _ids(read_one(index.name, p, False)), range(len(stored))))
    except (OSError, ValueError, RuntimeError, KeyError):
        return None
    row_ids_I = np.concatenate(ids)
    if len(row_ids_I) > 2 * snapshot.num_rows + 1_000_000:  # also of rows that were deleted since
        return None
    partition_I = np.repeat(np.arange(len(ids), dtype=np.int32), [len(part) for part in ids])
    current = np.isin(row_ids_I, _not_held(snapshot, index.name), invert=True)
    row_ids_I, partition_I = row_ids_I[current], partition_I[current]
    order = np.argsort(row_ids_I, kind="stable")
    return Indexed(normalise(flat.reshape(len(stored), -1)), row_ids_I[order], partition_I[order])


def _ids(reader: Any) -> Ids:
    return reader.read_all().column(ROW_ID).to_numpy()  # type: ignore[no-any-return]


def _not_held(snapshot: Snapshot, name: str) -> Ids:
    """Rows of fragments that no part of the index holds: a row that was written again has its id, not its vector."""
    dataset = snapshot.dataset
    (described,) = [index for index in dataset.describe_indices() if index.name == name]
    held = {fragment for segment in described.segments for fragment in segment.fragment_ids}
    others = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in held]
    if not others:
        return np.empty(0, np.uint64)
    found = dataset.scanner(columns=[], with_row_id=True, fragments=others).to_table()
    return found[ROW_ID].to_numpy()  # type: ignore[no-any-return]
