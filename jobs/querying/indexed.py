"""What a column's index says of its partitions, read from it without its vectors.

I: rows in the index.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clipmill.jobs.querying.at_hand.cells import Indexed
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot, VectorIndex
from clipmill.jobs.querying.vectors import Ids, as_rows, normalise

_READS = 16  # of partitions at once: in a store each waits for an answer or two
_SAMPLED = 256  # rows of each part of an index


def has_lists(index: VectorIndex) -> bool:
    """Whether its partitions are lists of rows, and no graphs."""
    return index.kind.startswith("IVF") and not index.kind.startswith("IVF_HNSW")


def read(snapshot: Snapshot, column: str) -> Indexed | None:
    """None without an index, for one whose partitions are graphs or were trained apart, and for one that Lance does not
    read this way or that cannot be of this table."""
    index = snapshot.vector_index(column)
    if index is None or not has_lists(index):
        return None
    dataset = snapshot.dataset
    try:
        stored = dataset.get_ivf_model(index.name).centroids
        if stored is None or len(stored) != index.num_partitions:
            return None
        flat = np.asarray(stored.flatten()).astype(np.float32)
        if not np.isfinite(flat).all():  # the bytes of every row would be worth nothing
            return None
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
    row_ids_I, partition_I = row_ids_I[order], partition_I[order]
    # A row that was written and indexed again is named twice, where its old vector lay and where its new one does.
    again = np.flatnonzero(row_ids_I[1:] == row_ids_I[:-1])
    once = np.ones(len(row_ids_I), np.bool_)
    once[again] = once[again + 1] = False
    found = Indexed(normalise(flat.reshape(len(stored), -1)), row_ids_I[once], partition_I[once])
    return found if index.deltas == 1 or _of_one_training(snapshot, column, index.name, found) else None


def _ids(reader: Any) -> Ids:
    return reader.read_all().column(ROW_ID).to_numpy()  # type: ignore[no-any-return]


def _of_one_training(snapshot: Snapshot, column: str, name: str, indexed: Indexed) -> bool:
    """Whether the first rows of each part lie where they are nearest to. Lance gives the centres of one part only, and
    parts that were trained apart have as many partitions, but others."""
    dataset, centroids_PD = snapshot.dataset, indexed.centroids_PD
    for held in _held(snapshot, name):
        parts = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id in held]
        options = {"columns": [column], "with_row_id": True, "limit": _SAMPLED, "fragments": parts}
        rows = dataset.scanner(**options).to_table() if parts else None
        if rows is None:
            continue
        rows = rows.filter(rows[column].is_valid())
        partition_S = indexed.partitions(rows[ROW_ID].to_numpy())
        known_S = partition_S < len(centroids_PD)
        score_SP = normalise(as_rows(rows[column], snapshot.dim(column)))[known_S] @ centroids_PD.T
        own_S = np.take_along_axis(score_SP, partition_S[known_S, None].astype(np.intp), axis=1)[:, 0]
        if np.count_nonzero(own_S >= score_SP.max(axis=1) - 1e-3) < 0.75 * len(own_S):  # float16 decides a few
            return False
    return True


def _held(snapshot: Snapshot, name: str) -> list[set[int]]:
    """Ids of fragments, by part of the index."""
    (described,) = [index for index in snapshot.dataset.describe_indices() if index.name == name]
    return [set(segment.fragment_ids) for segment in described.segments]


def _not_held(snapshot: Snapshot, name: str) -> Ids:
    """Rows of fragments that no part of the index holds: a row that was written again has its id, not its vector."""
    dataset, held = snapshot.dataset, set().union(*_held(snapshot, name))
    others = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in held]
    if not others:
        return np.empty(0, np.uint64)
    found = dataset.scanner(columns=[], with_row_id=True, fragments=others).to_table()
    return found[ROW_ID].to_numpy()  # type: ignore[no-any-return]
