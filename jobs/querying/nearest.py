"""The vector search itself, by the road that `jobs.querying.roads` chooses, and true cosines on the way back.

D: dimension. Unrefined distances of a quantised index are not cosines (they are estimates of another quantity), so
every road re-ranks with the stored vectors.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.warm import EXACT_ROWS, fits, known_marks, marks, passing, subset
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.indexed import has_lists
from clipmill.jobs.querying.mask import FEW_PASS, only_passing
from clipmill.jobs.querying.roads import MAX_PROPOSED, MOST_READ, Road, at_odds, choose_road, in_memory, rows_of, widest
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.vectors import among

_USUAL = 10  # hits
_TIES = 16  # more rows than are wanted, to see whether the last of them has equals
# Up to so many proposed rows the filter is worked out for just those, from its columns; of more, an index says sooner
# which rows pass.
_LOOKED_AT = 400
_PASSES = "passes"
# Rows of partitions up to which they are compared here. Lance's index says less of each row and is quicker beyond: of
# 200,000 rows of 512 numbers, asked by 32 clients, a request with 115,000 to look at took 7.1 ms of CPU here and 5.9
# there, with 40,000 5.4 and 5.1; of a million with 2,000 a search took 0.9 and 2.9 ms (by hand, 2026-11-29, beside
# other work).
WIDE = 65_536
# Up to so many of them a search is over before another thread would have begun with it.
_FEW = 8_192
_FEW_HITS = 100
# And written as JSON: beside answers of 2.4 MB /health waited up to 253 ms, of 12 MB up to 556 (by hand, 2026-11-29,
# 8,192 rows, beside other work).
_FEW_BYTES = 500_000

_Found = tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]


def nearest(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, exact: bool
) -> pa.Table:
    """Row ids and true cosines, best first: columns _rowid uint64 and score float32; `depth` rows or fewer."""
    index = snapshot.vector_index(column)
    warm = snapshot.warm.get(column)
    matches = snapshot.count(predicate) if predicate and (index or warm) else None
    if matches == 0:
        return _hits(pa.array([], pa.uint64()), pa.array([], pa.float32()))
    if warm is not None and (at_hand := _at_hand(snapshot, column, vector_D, depth, predicate, exact)) is not None:
        return _best(*at_hand, depth)
    road = choose_road(index, matches=matches, total=snapshot.num_rows, depth=depth, exact=exact)
    kept = matches is not None and matches <= max(MOST_READ, depth)
    if predicate and kept and not road.use_index and fits(snapshot, column):
        return _best(*subset(snapshot, column, predicate).cosines(vector_D), depth)
    if road.proposed:
        found = _proposed(snapshot, column, vector_D, depth, predicate, road)
        if found is not None:
            return found
        assert index is not None
        if predicate and warm is not None and warm.cells is not None:
            return _best(*warm.best_of(vector_D, depth, marks(snapshot, column, predicate)), depth)
        road = widest(index)  # what is near does not pass: look through everything that does
    return _by_lance(snapshot, column, vector_D, depth, predicate, road)


def _at_hand(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, exact: bool
) -> _Found | None:
    """From the vectors at hand; None where Lance's index is quicker, or all there is."""
    index, warm, total = snapshot.vector_index(column), snapshot.warm[column], snapshot.num_rows
    matches = snapshot.count(predicate) if predicate else total
    if exact or index is None or (predicate and matches <= max(EXACT_ROWS, depth)):
        return warm.best(vector_D, depth, passing(snapshot, predicate) if predicate else None)
    if warm.cells is None:
        return None
    index = replace(index, unindexed_rows=0)  # those are looked at in any case
    road = choose_road(index, matches=matches if predicate else None, total=total, depth=depth, exact=False)
    known = known_marks(snapshot, column, predicate)
    may_be_less = known is not None and known.count <= rows_of(index, road, total)
    rows = known.lie.rows if known is not None and may_be_less else None
    if predicate and (not road.proposed or in_memory(index, road, matches=matches, total=total, rows=rows)):
        return warm.best_of(vector_D, depth, marks(snapshot, column, predicate))
    if rows_of(index, road, total) > WIDE:
        return None
    found = _in_cells(snapshot, column, vector_D, depth, predicate, road)
    if found is not None:
        return found
    return (
        warm.best_of(vector_D, depth, marks(snapshot, column, predicate)) if predicate else warm.best(vector_D, depth)
    )


def _in_cells(
    snapshot: Snapshot,
    column: str,
    vector_D: npt.NDArray[np.float32],
    depth: int,
    predicate: str | None,
    road: Road,
) -> _Found | None:
    """The nearest of those in the partitions of the road; None where what is near does not pass."""
    warm, matches = snapshot.warm[column], snapshot.count(predicate)
    assert warm.cells is not None
    share, near = matches / snapshot.num_rows, warm.cells.nearest(vector_D, road.probes or 1)
    known = known_marks(snapshot, column, predicate)
    if known is not None and at_odds(known.of(near), share):  # those that pass need not be compared to see it
        return None
    looked = warm.look(vector_D, near)
    if predicate:
        first = looked.best_first(road.proposed)
        if known is None and len(first) > _LOOKED_AT:
            known = marks(snapshot, column, predicate)
        if known is not None:
            passes = known.marks_N[looked.places_S[first]]
        else:
            passes = _passes(snapshot, warm.row_ids_N[looked.places_S[first]], predicate)
        if np.count_nonzero(passes) < road.least or at_odds(passes, share):
            return None
        looked = looked.only(first[passes] if known is None else known.marks_N[looked.places_S])
    return warm.settled(looked, depth) if len(looked) >= min(depth, matches) else None


def asks_index(snapshot: Snapshot, column: str) -> bool:
    """Whether searches with vectors at hand still go through Lance's index."""
    index, warm = snapshot.vector_index(column), snapshot.warm.get(column)
    if index is None or warm is None or warm.cells is None:
        return index is not None
    return will_ask_index(snapshot, column)


def will_ask_index(snapshot: Snapshot, column: str) -> bool:
    """The same before they are at hand, of an index whose partitions can be read."""
    index = snapshot.vector_index(column)
    if index is None or not has_lists(index):
        return index is not None
    road = choose_road(index, matches=None, total=snapshot.num_rows, depth=_USUAL, exact=False)
    return rows_of(index, road, snapshot.num_rows) > WIDE


def is_quick(snapshot: Snapshot, column: str, depth: int, columns: tuple[str, ...]) -> bool:
    """Whether a search by a vector without a filter is answered in a millisecond or so, all of it from what is at hand:
    whoever keeps a thread for all that waits need not hand it on."""
    warm, held = snapshot.warm.get(column), snapshot.rows
    if warm is None or held is None or not held.has(columns) or depth > _FEW_HITS:
        return False
    if depth * held.widest(columns) > _FEW_BYTES:
        return False
    if (index := snapshot.vector_index(column)) is None:
        return len(warm) <= _FEW
    if warm.cells is None:
        return False
    alone = len(warm) - warm.cells.in_partitions
    road = choose_road(
        replace(index, unindexed_rows=0), matches=None, total=snapshot.num_rows, depth=depth, exact=False
    )
    return alone + rows_of(index, road, snapshot.num_rows) <= _FEW


def _passes(snapshot: Snapshot, row_ids_K: npt.NDArray[np.uint64], predicate: str) -> npt.NDArray[np.bool_]:
    """(K,): whether each of a few rows passes, worked out for just those where rows at hand do not say so."""
    if (told := snapshot.told(predicate, row_ids_K)) is not None:
        return told
    # With a column: a filter of none, `1 = 1`, fails where ids ascend and nothing is read.
    columns = {ROW_ID: ROW_ID, _PASSES: predicate}
    with filter_errors(predicate):
        found = snapshot.dataset._take_rows(row_ids_K.tolist(), columns=columns)[_PASSES]
    return np.asarray(pc.fill_null(found, False))


def _by_lance(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, road: Road
) -> pa.Table:
    """As Lance ranks; where rows as near as the last one are cut off, it is asked again until all of them are there,
    because which of them it gives differs from depth to depth, and pages would repeat some and miss others."""
    index, wanted = snapshot.vector_index(column), depth + _TIES
    while True:
        found = _scan(snapshot, column, vector_D, wanted, predicate, road)
        distance = found["_distance"].to_numpy()
        if len(found) < depth and index and road.filter_first and (road.probes or 1) < index.num_partitions:
            road = widest(index)  # the partitions that it named hold fewer rows than are wanted
            continue
        if road.use_index and len(found) < min(depth, _findable(snapshot, column, predicate)):
            # A graph that is damaged leads nowhere, and Lance says nothing of it; one that a filter thins out may too.
            road = Road(use_index=False)
            continue
        if not road.use_index and len(found) < wanted:
            snapshot.with_vector.put((column, predicate), len(found))
        if len(found) < wanted or distance[depth - 1] < distance[-1] or wanted > MAX_PROPOSED:
            score = _clamped(pc.subtract(pa.scalar(1.0, pa.float32()), found["_distance"]))
            return _best(found[ROW_ID].to_numpy(), np.asarray(score), depth)
        wanted *= 4


def _findable(snapshot: Snapshot, column: str, predicate: str | None) -> int:
    """Rows that pass, or, where all of them were compared once, those of them that have a vector."""
    known = snapshot.with_vector.get((column, predicate))
    return snapshot.count(predicate) if known is None else known


def _proposed(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], depth: int, predicate: str | None, road: Road
) -> pa.Table | None:
    """What the index proposes, filtered and re-ranked; None where too little of it passes to be trusted."""
    if road.refine:
        found = _scan(snapshot, column, vector_D, road.proposed, predicate, road)
        found = _hits(found[ROW_ID], _clamped(pc.subtract(pa.scalar(1.0, pa.float32()), found["_distance"])))
        return found.slice(0, depth) if len(found) >= road.least else None
    looked_at = predicate if road.proposed <= _LOOKED_AT else None
    found = _scan(snapshot, column, vector_D, road.proposed, looked_at, road)
    row_ids = found[ROW_ID].to_numpy()
    if predicate:
        if looked_at:
            passes_N = np.asarray(pc.fill_null(found[_PASSES], False))
        else:
            passes_N = among(row_ids, passing(snapshot, predicate))
        if at_odds(passes_N, snapshot.count(predicate) / snapshot.num_rows):
            return None
        row_ids = row_ids[passes_N]
    if len(row_ids) < max(road.least, min(depth, snapshot.num_rows)):
        return None
    row_ids = row_ids[: 2 * road.least or road.proposed]
    if (warm := snapshot.warm.get(column)) is not None:
        return _best(*warm.best(vector_D, depth, row_ids), depth)
    return _best(row_ids, cosines(snapshot, column, vector_D, row_ids), depth)


def _best(row_ids: npt.NDArray[np.uint64], score: npt.NDArray[np.float32], depth: int) -> pa.Table:
    """The first `depth` by score; of equal ones, as copies of a picture are, by row id, whatever the depth; no NaN."""
    if (none := np.isnan(score)).any():
        row_ids, score = row_ids[~none], score[~none]
    if len(score) > depth:
        least = np.partition(score, len(score) - depth)[len(score) - depth]
        row_ids, score = row_ids[score >= least], score[score >= least]
    best = np.lexsort((row_ids, -score))[:depth]
    return _hits(pa.array(row_ids[best], pa.uint64()), pa.array(score[best], pa.float32()))


def _scan(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], rows: int, predicate: str | None, road: Road
) -> pa.Table:
    """Columns _rowid and _distance, best first. The filter comes before the search unless the road proposes; where what
    it proposes are estimates, the filter takes no row away but is the column `_PASSES`."""
    arguments: dict[str, Any] = {"column": column, "q": vector_D, "k": rows, "metric": "cosine"}
    arguments["use_index"] = road.use_index
    if road.use_index:
        arguments |= {"refine_factor": road.refine, "nprobes": road.probes}
    if road.ef is not None:
        # Where ties are asked for again there are more rows than the road was chosen for, and Lance refuses fewer.
        arguments["ef"] = max(road.ef, rows * (road.refine or 1))
    looked_at = predicate if road.proposed and not road.refine else None
    columns = {"_distance": "_distance"} | ({_PASSES: looked_at} if looked_at else {})
    narrowed: dict[str, Any] = {"filter": None if looked_at else predicate}
    if predicate and road.filter_first and snapshot.count(predicate) <= FEW_PASS * snapshot.num_rows:
        narrowed = only_passing(snapshot, predicate)
    with filter_errors(predicate):
        return snapshot.dataset.scanner(
            columns=columns,
            nearest=arguments,
            prefilter=not road.proposed,
            with_row_id=True,
            limit=rows,
            **narrowed,
        ).to_table()


def cosines(
    snapshot: Snapshot, column: str, vector_D: npt.NDArray[np.float32], row_ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float32]:
    """Cosine of each row's stored vector with `vector_D`, NaN where the row has none, or one of zeros."""
    if (warm := snapshot.warm.get(column)) is not None:
        known, score = warm.cosines(vector_D, row_ids)  # in the order of the ids
        if not len(known):
            return np.full(len(row_ids), np.nan, dtype=np.float32)
        place = np.minimum(np.searchsorted(known, row_ids), len(known) - 1)
        return np.where(known[place] == row_ids, score[place], np.float32(np.nan))
    stored = snapshot.dataset._take_rows(row_ids.tolist(), columns=[column])[column].combine_chunks()
    result = np.full(len(row_ids), np.nan, dtype=np.float32)
    valid = np.asarray(stored.is_valid())
    rows_ND = np.asarray(stored.drop_null().flatten(), dtype=np.float32).reshape(-1, len(vector_D))
    lengths = np.linalg.norm(rows_ND, axis=1)
    result[valid] = np.clip(np.einsum("nd,d->n", rows_ND, vector_D) / np.where(lengths == 0, np.nan, lengths), -1, 1)
    return result


def _clamped(score: Any) -> Any:
    """Rounding of float16 takes a self-match to 1.00015."""
    return pc.max_element_wise(pc.min_element_wise(score, pa.scalar(1.0, pa.float32())), pa.scalar(-1.0, pa.float32()))


def _hits(row_ids: Any, score: Any) -> pa.Table:
    return pa.table({ROW_ID: row_ids, "score": score})
