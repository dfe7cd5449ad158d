"""Full text and vectors together: reciprocal rank fusion.

Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009: score(d) = sum over rankings of weight / (60 + rank(d)).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.querying.filters import filter_errors
from jobs.querying.nearest import cosines, nearest
from jobs.querying.request import Query
from jobs.querying.snapshot import ROW_ID, Snapshot
from schemas.errors import UserError

RRF_K = 60
MIN_CANDIDATES = 100
TEXT_COLUMN = "caption"

_beside = ThreadPoolExecutor(8, thread_name_prefix="full-text")  # both halves of a query run in Lance, without the GIL


def hybrid(snapshot: Snapshot, query: Query, vector_D: npt.NDArray[np.float32], predicate: str | None) -> pa.Table:
    """Columns _rowid, score (true cosine), bm25 (null where the words do not occur) and rank_score, best first.

    Raises UserError where the captions have no full-text index.
    """
    depth = max(MIN_CANDIDATES, 2 * query.depth)
    words = _beside.submit(full_text, snapshot, query.positive.texts[0], depth, predicate)
    by_vector = nearest(snapshot, query.column, vector_D, depth, predicate, query.exact)
    by_text = words.result()
    fused = fuse(by_vector[ROW_ID].to_pylist(), by_text[ROW_ID].to_pylist(), query.text_weight)
    score = dict(zip(by_vector[ROW_ID].to_pylist(), by_vector["score"].to_pylist(), strict=True))
    if missing := [row_id for row_id in fused if row_id not in score]:
        found = cosines(snapshot, query.column, vector_D, np.asarray(missing, dtype=np.uint64))
        score.update(zip(missing, found.tolist(), strict=True))
    bm25 = dict(zip(by_text[ROW_ID].to_pylist(), by_text["bm25"].to_pylist(), strict=True))
    ranked = sorted(fused, key=lambda row_id: (-fused[row_id], row_id))
    ranked = [row_id for row_id in ranked if score[row_id] == score[row_id]]  # NaN: the row has no vector, so is hidden
    return pa.table(
        {
            ROW_ID: pa.array(ranked, pa.uint64()),
            "score": pa.array([score[i] for i in ranked], pa.float32()),
            "bm25": pa.array([bm25.get(i) for i in ranked], pa.float32()),
            "rank_score": pa.array([fused[i] for i in ranked], pa.float32()),
        }
    )


def fuse(by_vector: list[int], by_text: list[int], text_weight: float) -> dict[int, float]:
    """Score by row id of two rankings of row ids, best first."""
    fused: dict[int, float] = {}
    for ranking, weight in ((by_vector, 1 - text_weight), (by_text, text_weight)):
        for rank, row_id in enumerate(ranking, start=1):
            fused[row_id] = fused.get(row_id, 0.0) + weight / (RRF_K + rank)
    return fused


def full_text(snapshot: Snapshot, text: str, depth: int, predicate: str | None) -> pa.Table:
    """Columns _rowid and bm25 of the captions that hold any of the words, best first."""
    from lance.query import MatchQuery

    if not snapshot.index_names(TEXT_COLUMN):
        raise UserError("the captions have no full-text index", "run `clipmill index TABLE`, then search again")
    with filter_errors(predicate):
        found = snapshot.dataset.scanner(
            columns=["_score"],
            full_text_query=MatchQuery(text, TEXT_COLUMN),
            filter=predicate,
            prefilter=True,
            limit=depth,
            with_row_id=True,
        ).to_table()
    found = found.sort_by([("_score", "descending")])
    return pa.table({ROW_ID: found[ROW_ID], "bm25": found["_score"]})
