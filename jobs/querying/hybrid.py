"""Full text and vectors together: reciprocal rank fusion, as one ranking whose pages do not overlap.

Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009: score(d) = sum over rankings of weight / (60 + rank(d)).

Neither ranking is read to its end, so how deep a row lies in the other one is known only near the top. Were that
depth to follow the page, each page would be cut from another ranking, and rows would repeat or never show. So a row
earns the sum only where it is within `WINDOW` of both rankings; else the larger of its two shares. Then the first n of
the fused ranking follow from the first n >= `WINDOW` of each: whatever comes deeper has at least n rows before it.
"""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.warm import passing
from clipmill.jobs.querying.mask import MOST_NAMED
from clipmill.jobs.querying.nearest import cosines
from clipmill.jobs.querying.pages import ranked
from clipmill.jobs.querying.request import MAX_HITS, Query
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.words import full_text

RRF_K = 60
WINDOW = 100

_beside = ThreadPoolExecutor(8, thread_name_prefix="full-text")  # both halves of a query run in Lance, without the GIL


def hybrid(
    snapshot: Snapshot, query: Query, vector_D: npt.NDArray[np.float32], predicate: str | None, depth: int
) -> pa.Table:
    """The `depth` best or fewer, without those under `query.min_score`: columns _rowid, score (true cosine), bm25 (null
    where the words do not occur) and rank_score, best first.

    Raises UserError where the captions have no full-text index.
    """
    step = looked = max(WINDOW, query.k + len(query.positive.ids))  # of the first page, so that it asks once
    while looked < depth:
        looked *= 2
    if predicate is not None:
        _name_first(snapshot, predicate)
    while True:
        in_time = copy_context().run  # with the deadline of this thread
        words = _beside.submit(in_time, full_text, snapshot, query.positive.texts[0], looked, predicate, query.column)
        by_vector = ranked(snapshot, query, vector_D, predicate, looked, step)
        hits, whole = _fused(snapshot, query, vector_D, by_vector, words.result(), looked)
        if query.min_score is not None:
            hits = hits.filter(pc.greater_equal(hits["score"], query.min_score))
        if whole or len(hits) >= depth or looked >= 2 * MAX_HITS:
            return hits.slice(0, depth)
        looked *= 2


def _name_first(snapshot: Snapshot, predicate: str) -> None:
    """What both halves need of a filter, once for both. Rows that are named are counted."""
    if snapshot.num_rows <= MOST_NAMED and snapshot.marked(predicate) is None:
        passing(snapshot, predicate)
    snapshot.count(predicate)


def _fused(
    snapshot: Snapshot,
    query: Query,
    vector_D: npt.NDArray[np.float32],
    by_vector: pa.Table,
    by_text: pa.Table,
    looked: int,
) -> tuple[pa.Table, bool]:
    """The fused ranking as far as `looked` of each half settle it, and whether that is all of it."""
    near = _near(snapshot, query.column, vector_D, by_text, looked)
    bm25 = dict(zip(by_text[ROW_ID].to_numpy().tolist(), by_text["bm25"].to_numpy().tolist(), strict=True))
    # Of captions with the same words, which tell nothing, those nearer to the query come first. Rows without a vector
    # are hidden, but keep their places: without them `WINDOW` would reach further the more rows are looked at.
    text_ids = sorted(near, key=lambda i: (-bm25[i], -near[i] if near[i] == near[i] else 2.0, i))
    score = near | dict(zip(by_vector[ROW_ID].to_pylist(), by_vector["score"].to_pylist(), strict=True))
    fused = fuse(by_vector[ROW_ID].to_pylist(), text_ids, query.text_weight)
    # A half that did not end settles as many places as it has rows; one that ended hides nothing.
    settled = [
        len(rows) for rows, all_of_them in ((by_vector, by_vector), (text_ids, bm25)) if len(all_of_them) >= looked
    ]
    # Of two that earn the same the vectors' comes first, as `fuse` has them. Not the nearer: a row's cosine in the last
    # digits follows the road by which it was found, which another page's may not be.
    ranked = sorted(fused, key=lambda i: -fused[i])[: min(settled, default=None)]
    ranked = [i for i in ranked if score[i] == score[i]]
    hits = pa.table(
        {
            ROW_ID: pa.array(ranked, pa.uint64()),
            "score": pa.array([score[i] for i in ranked], pa.float32()),
            "bm25": pa.array([bm25.get(i) for i in ranked], pa.float32()),
            "rank_score": pa.array([fused[i] for i in ranked], pa.float32()),
        }
    )
    return hits, not settled


def _near(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], by_text: pa.Table, looked: int
) -> dict[int, float]:
    """Cosines of the rows that have the words. Of more captions with the same words than are looked at it need be the
    nearest only, as no other can be among as many of the fused ranking; a server sees which those are."""
    row_ids, bm25 = by_text[ROW_ID].to_numpy(), by_text["bm25"].to_numpy()
    near: dict[int, float] = {}
    if (warm := snapshot.warm.get(column)) is not None and len(row_ids) > looked:
        equals, scores = warm.best(vector_D, looked, row_ids[bm25 == bm25[looked - 1]])
        if len(equals) >= looked:
            near = dict(zip(equals.tolist(), scores.tolist(), strict=True))
            row_ids = row_ids[bm25 > bm25[looked - 1]]
    # All of them from the stored vectors: by another road they would differ in the last digits, and so in their order.
    return near | dict(zip(row_ids.tolist(), cosines(snapshot, column, vector_D, row_ids).tolist(), strict=True))


def fuse(by_vector: list[int], by_text: list[int], text_weight: float) -> dict[int, float]:
    """Score by row id of two rankings of row ids, best first: the sum within `WINDOW` of both, else the larger one."""
    near = set(by_vector[:WINDOW]) & set(by_text[:WINDOW])
    fused: dict[int, float] = {}
    for ranking, weight in ((by_vector, 1 - text_weight), (by_text, text_weight)):
        for rank, row_id in enumerate(ranking, start=1):
            share, so_far = weight / (RRF_K + rank), fused.get(row_id, 0.0)
            fused[row_id] = so_far + share if row_id in near else max(so_far, share)
    return fused
