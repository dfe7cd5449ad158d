"""The vector search itself: which road to take, and true cosines on the way back.

D: dimension. P: partitions of the index. Unrefined distances of a quantised index are not cosines (they are
estimates of another quantity), so every road re-ranks with the stored vectors.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.querying.filters import filter_errors
from jobs.querying.snapshot import ROW_ID, Snapshot, VectorIndex
from jobs.querying.warm import EXACT_ROWS, WarmVectors

# Up to this many matching rows just those are compared, exactly. From the table that takes some 16 us a row, up to
# three times what the index takes, but among so few the index misses a tenth to a quarter of the nearest.
EXACT_MATCHES = 6000
BASE_PROBES = 24
MAX_WIDENING = 16.0
# From this share of matching rows on it is cheaper to filter what the unfiltered search found.
POSTFILTER_SELECTIVITY = 0.2
REFINE = {5: 4, 1: 16}  # by bits of IVF_RQ; other kinds 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """How one search is done. `overfetch`: hits fetched per hit wanted, where the filter comes after."""

    use_index: bool
    probes: int | None = None
    refine: int | None = None
    ef: int | None = None
    overfetch: int = 0


def choose_road(index: VectorIndex | None, *, matches: int | None, total: int, depth: int, exact: bool) -> Road:
    """Pure. `matches`: rows that pass the filter, None without one.

    A filter thins out every partition alike, so the nearest `depth` matches lie as deep as the nearest
    depth / selectivity rows: probes grow with the square root of that. Depths beyond 100 widen it the same way.
    """
    if exact or index is None or (matches is not None and matches <= max(EXACT_MATCHES, depth)):
        return Road(use_index=False)
    refine = REFINE.get(index.bits, 4)
    if index.kind.startswith("IVF_HNSW"):
        return Road(use_index=True, probes=index.num_partitions, refine=refine, ef=max(128, 2 * depth * refine))
    selectivity = 1.0 if matches is None else max(matches / max(total, 1), 1e-6)
    widening = min(MAX_WIDENING, selectivity**-0.5) * max(1.0, depth / 100) ** 0.5
    probes = min(math.ceil(BASE_PROBES * widening), index.num_partitions)
    after = selectivity >= POSTFILTER_SELECTIVITY and matches is not None
    return Road(use_index=True, probes=probes, refine=refine, overfetch=math.ceil(2 / selectivity + 2) if after else 0)


def nearest(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, exact: bool
) -> pa.Table:
    """Row ids and true cosines, best first: columns _rowid uint64 and score float32; `depth` rows or fewer."""
    index = snapshot.vector_index(column)
    warm = snapshot.warm.get(column)
    matches = snapshot.count(predicate) if predicate and (index or warm) else None
    if matches == 0:
        return _hits(pa.array([], pa.uint64()), pa.array([], pa.float32()))
    few = matches is not None and matches <= max(EXACT_ROWS, depth)
    if warm is not None and (few or exact or index is None):
        return _from_memory(snapshot, warm, vector_D, depth, predicate)
    road = choose_road(index, matches=matches, total=snapshot.num_rows, depth=depth, exact=exact)
    if road.overfetch:
        found = _scan(snapshot, column, vector_D, depth, predicate, road)
        if len(found) == depth:
            return found
        # The filter and the query are at odds: what is near does not pass. Look through what passes instead.
        road = replace(road, overfetch=0)
    return _scan(snapshot, column, vector_D, depth, predicate, road)


def _scan(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, road: Road
) -> pa.Table:
    with filter_errors(predicate):
        found = snapshot.dataset.scanner(
            columns=["_distance"],
            nearest=_arguments(column, vector_D, depth * max(1, road.overfetch), road),
            filter=predicate,
            prefilter=not road.overfetch,
            with_row_id=True,
            limit=depth,
        ).to_table()
    score = pc.subtract(pa.scalar(1.0, pa.float32()), found["_distance"])
    return _hits(found[ROW_ID], _clamped(score))


def _from_memory(
    snapshot: Snapshot, warm: WarmVectors, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None
) -> pa.Table:
    wanted = None
    if predicate:
        with filter_errors(predicate):
            passing = snapshot.dataset.scanner(columns=[], filter=predicate, with_row_id=True).to_table()
        wanted = passing[ROW_ID].to_numpy()
    ids, score = warm.cosines(vector_D, wanted)
    best = np.argpartition(-score, depth)[:depth] if len(score) > depth else np.arange(len(score))
    best = best[np.argsort(-score[best], kind="stable")]
    return _hits(pa.array(ids[best]), pa.array(score[best]))


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
    if (warm := snapshot.warm.get(column)) is not None:
        known, score = warm.cosines(vector_D, row_ids)
        by_id = dict(zip(known.tolist(), score.tolist(), strict=True))
        return np.array([by_id.get(row_id, np.nan) for row_id in row_ids.tolist()], dtype=np.float32)
    stored = snapshot.dataset._take_rows(row_ids.tolist(), columns=[column])[column].combine_chunks()
    result = np.full(len(row_ids), np.nan, dtype=np.float32)
    valid = np.asarray(stored.is_valid())
    rows_ND = np.asarray(stored.drop_null().flatten(), dtype=np.float32).reshape(-1, len(vector_D))
    lengths = np.linalg.norm(rows_ND, axis=1)
    result[valid] = np.clip(np.einsum("nd,d->n", rows_ND, vector_D) / np.where(lengths == 0, 1, lengths), -1, 1)
    return result


def _clamped(score: Any) -> Any:
    """Rounding of float16 takes a self-match to 1.00015."""
    return pc.max_element_wise(pc.min_element_wise(score, pa.scalar(1.0, pa.float32())), pa.scalar(-1.0, pa.float32()))


def _hits(row_ids: Any, score: Any) -> pa.Table:
    return pa.table({ROW_ID: row_ids, "score": score})
