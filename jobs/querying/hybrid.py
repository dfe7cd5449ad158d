"""Full text and vectors together: reciprocal rank fusion, as one ranking whose pages do not overlap.

Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009: score(d) = sum over rankings of weight / (60 + rank(d)).

Neither ranking is read to its end, so how deep a row lies in the other one is known only near the top. Were that
depth to follow the page, each page would be cut from another ranking, and rows would repeat or never show. So a row
earns the sum only where it is within `WINDOW` of both rankings; else the larger of its two shares. Then the first n of
the fused ranking follow from the first n >= `WINDOW` of each: whatever comes deeper has at least n rows before it.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.nearest import cosines
from clipmill.jobs.querying.pages import ranked
from clipmill.jobs.querying.request import MAX_HITS, Query
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.schemas.errors import UserError

RRF_K = 60
WINDOW = 100
MAX_TIES = 10_000
TEXT_COLUMN = "caption"

# Percent of the captions up to which Lance looks at each one that passes a filter; of more it goes through those that
# have the words. Of a million rows that takes 5 to 9 ms of CPU for words that 8 % have, and to look at each one 6 where
# 1 % pass and 15 where 5 % do (by hand, 2026-11-29). Left alone, Lance looks at each one up to 10 %.
_WEIGHED_ALL = "1"

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
    while True:
        words = _beside.submit(full_text, snapshot, query.positive.texts[0], looked, predicate)
        by_vector = ranked(snapshot, query, vector_D, predicate, looked, step)
        hits, whole = _fused(snapshot, query, vector_D, by_vector, words.result(), looked)
        if query.min_score is not None:
            hits = hits.filter(pc.greater_equal(hits["score"], query.min_score))
        if whole or len(hits) >= depth or looked >= 2 * MAX_HITS:
            return hits.slice(0, depth)
        looked *= 2


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
    bm25 = dict(zip(by_text[ROW_ID].to_pylist(), by_text["bm25"].to_pylist(), strict=True))
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


def full_text(snapshot: Snapshot, text: str, depth: int, predicate: str | None) -> pa.Table:
    """Columns _rowid and bm25 of the captions that hold any of the words, best first: `depth`, and those as good as the
    last of them (up to `MAX_TIES`), or all there are."""
    from lance.query import MatchQuery

    os.environ.setdefault("LANCE_FLAT_SEARCH_PERCENT_THRESHOLD", _WEIGHED_ALL)
    if not snapshot.index_names(TEXT_COLUMN):
        raise UserError("the captions have no full-text index", "run `clipmill index TABLE`, then search again")
    # Under a filter a question costs nearly the same whatever the limit, so one is asked, and not one for each time
    # that the last of so many has equals.
    wanted = depth + 1 if predicate is None else MAX_TIES + depth
    while True:
        with filter_errors(predicate):
            found = snapshot.dataset.scanner(
                columns=["_score"],
                full_text_query=MatchQuery(text, TEXT_COLUMN),
                filter=predicate,
                prefilter=True,
                limit=wanted,
                with_row_id=True,
            ).to_table()
        found = found.sort_by([("_score", "descending"), (ROW_ID, "ascending")])
        scores = found["_score"].to_numpy()
        # Which captions of the last score are among them is Lance's choice, so it is all of them or none.
        if len(found) < wanted or scores[-1] < scores[depth - 1] or wanted >= MAX_TIES:
            break
        wanted *= 4
    if len(found) > depth:
        found = found.slice(0, int((scores >= scores[depth - 1]).sum()))
    return pa.table({ROW_ID: found[ROW_ID], "bm25": found["_score"]})
