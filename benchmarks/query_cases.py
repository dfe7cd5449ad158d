"""What the query benchmark asks, and the true answers.

Every query comes with a filter of its own (other buckets, another tag), so that nothing remembered of an earlier filter
helps; `again` asks with one filter all the time, as somebody does who pages through a selection.

Q: queries. N: rows. B: rows of a batch. D: dimension.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.query_data import ADJECTIVES, NOUNS, kind_of, vectors_of

K = 10
WARM_UP = 10  # queries before the clock starts, with filters of their own
HYBRID_DEPTH = 100
WORDS = ("red", "old thing100", "small thing044", "scene 12", "wet")


def _buckets(width: int) -> Callable[[int], dict[str, Any]]:
    """`width` of the 1000 values of `bucket`, which has nothing to do with the vectors."""

    def case(n: int) -> dict[str, Any]:
        start = 37 * n % (1001 - width)
        return {"where": f"bucket >= {start} AND bucket < {start + width}"}

    return case


def _nouns(count: int) -> Callable[[int], dict[str, Any]]:
    """Tags that only the vectors of some clusters have, mostly far from the query: the hard case for an index."""
    return lambda n: {"any_tags": tuple(NOUNS[(7 * n + 5 * i) % len(NOUNS)] for i in range(count))}


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": lambda n: {},
    "50 %": _buckets(500),
    "5 %": _buckets(50),
    "0.1 %": _buckets(1),
    "tag, 8 %": lambda n: {"any_tags": (ADJECTIVES[n % len(ADJECTIVES)],)},
    "far tag, 0.3 %": _nouns(1),
    "any of 12 far tags, 4 %": _nouns(12),
    "any of 60 far tags, 20 %": _nouns(60),
    "without a tag, 92 %": lambda n: {"no_tags": (ADJECTIVES[n % len(ADJECTIVES)],)},
    "hybrid": lambda n: {"hybrid": True},
    "hybrid, 5 %": lambda n: {"hybrid": True, **_buckets(50)(n)},
}


def query_vectors(queries: int, dim: int, kind: str) -> npt.NDArray[np.float32]:
    """(queries + WARM_UP, D), of the table's kind by another seed."""
    return vectors_of(kind, dim).draw(queries + WARM_UP, seed=77)[0]


def predicate_of(case: dict[str, Any]) -> str | None:
    """The filter as plain SQL, for systems that know no tags."""
    labels = ", ".join(f"'{tag}'" for tag in (*case.get("any_tags", ()), *case.get("no_tags", ())))
    if "any_tags" in case:
        return f"array_has_any(tags, [{labels}])"
    if "no_tags" in case:
        return f"NOT array_has_any(tags, [{labels}])"
    return case.get("where")


def true_answers(uri: str, queries: int, dim: int) -> dict[str, list[list[str]]]:
    """Ids of the exact K nearest by case and query, from the cosines of all rows; for hybrid, that ranking fused with
    BM25 over the same filter."""
    from clipmill.jobs.querying.open import open_table

    snapshot = open_table(uri).snapshot
    queries_QD = query_vectors(queries, dim, kind_of(uri))[:queries]
    cosine_QN = np.empty((queries, snapshot.num_rows), dtype=np.float32)
    row_N = np.empty(snapshot.num_rows, dtype=np.uint64)
    start = 0
    for batch in snapshot.dataset.scanner(columns=["vector"], with_row_id=True).to_batches():
        rows_BD = np.asarray(batch.column("vector").flatten(), dtype=np.float32).reshape(-1, dim)
        rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
        cosine_QN[:, start : start + len(rows_BD)] = queries_QD @ rows_BD.T
        row_N[start : start + len(rows_BD)] = batch.column("_rowid").to_numpy()
        start += len(rows_BD)
    order = np.argsort(row_N)
    found: dict[str, list[list[str]]] = {}
    for name, case in CASES.items():
        found[name] = []
        for n in range(queries):
            rows = _nearest(snapshot, case(n), WORDS[n % len(WORDS)], cosine_QN[n], row_N, order)
            found[name].append(snapshot.dataset._take_rows(rows, columns=["id"])["id"].to_pylist())
    return found


def _nearest(snapshot: Any, case: dict[str, Any], words: str, cosine_N: Any, row_N: Any, order: Any) -> list[int]:
    from clipmill.jobs.querying.hybrid import fuse
    from clipmill.jobs.querying.words import full_text

    predicate, depth = predicate_of(case), HYBRID_DEPTH if case.get("hybrid") else K
    places = np.arange(len(row_N))
    if predicate:
        passing = snapshot.dataset.scanner(columns=[], filter=predicate, with_row_id=True).to_table()["_rowid"]
        places = order[np.searchsorted(row_N, passing.to_numpy(), sorter=order)]
    best = places[np.argpartition(-cosine_N[places], min(depth, len(places) - 1))[:depth]]
    ranked: list[int] = row_N[best[np.argsort(-cosine_N[best])]].tolist()
    if case.get("hybrid"):

        def near(rows: Any) -> Any:
            return cosine_N[order[np.searchsorted(row_N, rows, sorter=order)]]

        text = full_text(snapshot, words, depth, predicate)
        ids = text["_rowid"].to_numpy()
        # Captions with the same words, by how near they are, as `jobs.querying.hybrid` ranks them.
        scores = fuse(ranked, ids[np.lexsort((ids, -near(ids), -text["bm25"].to_numpy()))].tolist(), 0.5)
        fused = np.array(list(scores), dtype=np.uint64)
        best = np.lexsort((fused, -near(fused), -np.array(list(scores.values()))))
        ranked = fused[best][:K].tolist()
    return ranked
