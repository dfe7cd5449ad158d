"""What the index misses: recall@k against brute force on sampled queries.

Queries are caption vectors of random rows where there are any, because that is what people search with (text and
image vectors lie apart in CLIP's space, so image queries would flatter the index); else image vectors, each without
its own row.

Q: queries. N: rows of a batch. D: dimension.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.indexing.centroids import sample
from clipmill.jobs.querying.nearest import nearest
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot, VectorIndex
from clipmill.jobs.querying.vectors import as_rows, batches_of, normalise

_BUDGET_PRODUCTS = 2e8  # rows x queries of the brute force: some ten seconds on two cores at D = 512
MIN_QUERIES, MAX_QUERIES = 20, 100
_K, _SEED = 10, 1
_AS_NEAR = 1e-5  # of cosines: what two ways to compute one differ by


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """`recall`: share of the true k nearest that the index finds. Times per query in milliseconds."""

    k: int
    queries: int
    recall: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Queries, row ids and cosines of those truly nearest to each, and whether they are vectors of the column."""

    queries_QD: npt.NDArray[np.float32]
    ids_QK: npt.NDArray[np.uint64]
    score_QK: npt.NDArray[np.float32]
    own: bool


def ask(dataset: Any, column: str) -> Asked:
    """Reads all of the column; better before searches bring the index into Lance's cache, which would come on top."""
    wanted = int(np.clip(_BUDGET_PRODUCTS / max(dataset.count_rows(), 1), MIN_QUERIES, MAX_QUERIES))
    asked_by = query_column(dataset, column)
    queries_QD = sample(dataset, asked_by, wanted, seed=_SEED)[:wanted]
    own = asked_by == column
    ids_QK, score_QK = nearest_of(batches_of(dataset, column), column, queries_QD, _K + own)
    return Asked(queries_QD=queries_QD, ids_QK=ids_QK, score_QK=score_QK, own=own)


def measure(dataset: Any, column: str, *, index: VectorIndex | None = None, asked: Asked | None = None) -> Recall:
    """`index`: with a curve that the table does not hold yet. `asked`: what to ask for, else found now."""
    snapshot = Snapshot(dataset)
    if index is not None:
        snapshot.assume(column, index)
    asked = asked or ask(dataset, column)
    hits, times_ms = 0.0, []
    for query_D, true_ids_K, true_score_K in zip(asked.queries_QD, asked.ids_QK, asked.score_QK, strict=True):
        start = time.perf_counter()
        found = nearest(snapshot, column, query_D, _K + asked.own, None, False)
        times_ms.append((time.perf_counter() - start) * 1e3)
        # One row that is as near as another is as good: copies of a picture do not count as missed.
        good_N = np.isin(found[ROW_ID].to_numpy(), true_ids_K)
        good_N |= found["score"].to_numpy() >= np.min(true_score_K, initial=2.0) - _AS_NEAR
        # The query's own row is found by any index, so it counts on neither side.
        expected = len(true_ids_K) - asked.own
        hits += min(1.0, max(0, int(good_N.sum()) - asked.own) / expected) if expected > 0 else 1.0
    return Recall(
        k=_K,
        queries=len(asked.queries_QD),
        recall=hits / max(len(asked.queries_QD), 1),
        p50_ms=float(np.median(times_ms)),
        p95_ms=float(np.percentile(times_ms, 95)),
    )


def query_column(dataset: Any, column: str) -> str:
    """Whose vectors stand in for what people will ask: the captions', where there are enough."""
    partner = f"caption_{column}"
    if (
        partner in dataset.schema.names
        and dataset.scanner(columns=[], filter=f"{partner} IS NOT NULL", limit=MIN_QUERIES, with_row_id=True)
        .to_table()
        .num_rows
        == MIN_QUERIES
    ):
        return partner
    return column


def brute_force(
    dataset: Any, column: str, queries_QD: npt.NDArray[np.float32], k: int, predicate: str | None = None
) -> list[list[int]]:
    """Row ids of the true k nearest of each query, best first. One pass over the column; memory is one batch."""
    ids_QK, _ = nearest_of(batches_of(dataset, column, predicate), column, queries_QD, k)
    return [[int(i) for i in row] for row in ids_QK]


def nearest_of(
    batches: Iterable[pa.RecordBatch], column: str, queries_QD: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    """Row ids and cosines (Q, K) of the nearest rows of all batches, best first, K <= k. Memory is one batch."""
    dim = queries_QD.shape[1]
    best_score = np.full((len(queries_QD), 0), -2.0, dtype=np.float32)
    best_id = np.zeros((len(queries_QD), 0), dtype=np.uint64)
    for batch in batches:
        valid = np.asarray(batch.column(column).is_valid())
        with np.errstate(invalid="ignore"):  # of what is no number the cosine is none, and comes last
            rows_ND = normalise(as_rows(pa.chunked_array([batch.column(column)]), dim))
        ids_N = batch.column(ROW_ID).to_numpy()[valid]
        score = np.concatenate([best_score, queries_QD @ rows_ND.T], axis=1)
        ids = np.concatenate([best_id, np.broadcast_to(ids_N, (len(queries_QD), len(ids_N)))], axis=1)
        if score.shape[1] > k:
            keep = np.argpartition(-score, k - 1, axis=1)[:, :k]
            score, ids = np.take_along_axis(score, keep, axis=1), np.take_along_axis(ids, keep, axis=1)
        best_score, best_id = score, ids
    order = np.argsort(-best_score, axis=1)
    return np.take_along_axis(best_id, order, axis=1), np.take_along_axis(best_score, order, axis=1)
