"""The vector search itself: which road to take, and true cosines on the way back.

D: dimension. P: partitions of the index. Unrefined distances of a quantised index are not cosines (they are
estimates of another quantity), so every road re-ranks with the stored vectors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.querying.filters import filter_errors
from jobs.querying.snapshot import Snapshot, VectorIndex

ROW_ID = "_rowid"
# Below this many matching rows the exact scan of just those rows is as fast as the index, and misses nothing.
EXACT_MATCHES = 256
BASE_PROBES = 32
REFINE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """Arguments of Lance's `nearest`. `probes` and `ef` are None without an index."""

    use_index: bool
    probes: int | None = None
    refine: int | None = None
    ef: int | None = None


def choose_road(index: VectorIndex | None, *, matches: int | None, total: int, depth: int, exact: bool) -> Road:
    """Pure. `matches`: rows that pass the filter, None without one.

    A filter thins out every partition alike, so the nearest `depth` matches lie as deep as the nearest
    depth / selectivity rows: probes grow with the square root of that, which held recall@10 above 0.95 down to
    0.1 % on a million clustered vectors (see docs/querying.md).
    """
    if exact or index is None or (matches is not None and matches <= max(EXACT_MATCHES, depth)):
        return Road(use_index=False)
    if index.kind.startswith("IVF_HNSW"):
        return Road(use_index=True, probes=index.num_partitions, refine=REFINE, ef=max(128, 2 * depth * REFINE))
    selectivity = 1.0 if matches is None else max(matches / max(total, 1), 1e-6)
    depth_factor = max(1.0, depth / 100)
    probes = int(np.ceil(BASE_PROBES * min(16.0, selectivity**-0.5) * depth_factor**0.5))
    return Road(use_index=True, probes=min(probes, index.num_partitions), refine=REFINE)


def nearest(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, exact: bool
) -> pa.Table:
    """Row ids and true cosines, best first: columns _rowid uint64 and score float32; `depth` rows or fewer."""
    index = None if exact else snapshot.vector_index(column)
    matches = snapshot.count(predicate) if predicate and index is not None else None
    if matches == 0:
        return _hits(pa.array([], pa.uint64()), pa.array([], pa.float32()))
    road = choose_road(index, matches=matches, total=snapshot.num_rows, depth=depth, exact=exact)
    with filter_errors(predicate):
        found = snapshot.dataset.scanner(
            columns=["_distance"],
            nearest=_arguments(column, vector_D, depth, road),
            filter=predicate,
            prefilter=True,
            with_row_id=True,
        ).to_table()
    score = pc.subtract(pa.scalar(1.0, pa.float32()), found["_distance"])
    return _hits(found[ROW_ID], _clamped(score))


def _arguments(column: str, vector_D: npt.NDArray[np.float32], depth: int, road: Road) -> dict[str, Any]:
    arguments: dict[str, Any] = {"column": column, "q": vector_D, "k": depth, "metric": "cosine"}
    arguments["use_index"] = road.use_index
    if road.use_index:
        arguments |= {"refine_factor": road.refine, "nprobes": road.probes}
    if road.ef is not None:
        arguments["ef"] = road.ef
    return arguments


def cosines(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], row_ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float32]:
    """Cosine of each row's stored vector with `vector_D`, NaN where the row has none."""
    stored = snapshot.dataset._take_rows(row_ids.tolist(), columns=[column])[column].combine_chunks()
    result = np.full(len(row_ids), np.nan, dtype=np.float32)
    valid = np.asarray(stored.is_valid())
    rows_ND = np.asarray(stored.drop_null().flatten(), dtype=np.float32).reshape(-1, len(vector_D))
    lengths = np.linalg.norm(rows_ND, axis=1)
    result[valid] = np.clip(rows_ND @ vector_D / np.where(lengths == 0, 1, lengths), -1, 1)
    return result


def _clamped(score: Any) -> Any:
    """Rounding of float16 takes a self-match to 1.00015."""
    return pc.max_element_wise(pc.min_element_wise(score, pa.scalar(1.0, pa.float32())), pa.scalar(-1.0, pa.float32()))


def _hits(row_ids: Any, score: Any) -> pa.Table:
    return pa.table({ROW_ID: row_ids, "score": score})
