"""One ranking for all pages of a search.

How far an index is searched grows with the hits that are wanted, so a deeper page is cut from other rows than the
first: what only the deeper look finds may be nearer than what was shown already, and would push rows from page to page,
which then come twice while others never do (379 of 7,916 in pages of 20, by hand, 2026-11-29). So a ranking is made in
steps that do not depend on the page: the first page's hits as they are, then of twice as many those that are not among
them, behind them, and so on. Its first n are the same however deep it is read.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.nearest import nearest
from clipmill.jobs.querying.request import Query
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot


def ranked(
    snapshot: Snapshot, query: Query, vector_D: npt.NDArray[np.float32], predicate: str | None, depth: int, step: int
) -> pa.Table:
    """The first `depth` of the ranking whose first page has `step` rows, or all there are: columns as `nearest` has
    them, each step's best first. Steps are kept, so that who turns a page asks the index once."""

    def look(rows: int) -> pa.Table:
        return nearest(snapshot, query.column, vector_D, rows, predicate, query.exact)

    if query.exact or snapshot.vector_index(query.column) is None:
        return look(depth)  # every row is compared, whatever the depth
    asked = (query.column, predicate, vector_D.tobytes(), step)
    hits, rows = None, step
    while True:
        # Under a filter a first page is kept as well: what is known of the filter by the next time may change its road.
        known = snapshot.rankings.get((*asked, rows)) if depth > step or predicate is not None else None
        if known is None:
            known = _behind(hits, look(rows)).slice(0, rows)
            snapshot.rankings.put((*asked, rows), known)
        if len(known) < rows or rows >= depth:
            return known.slice(0, depth)
        hits, rows = known, 2 * rows


def near_enough(hits: pa.Table, least: float | None) -> pa.Table:
    """Up to the first whose score is less: what a deeper look finds behind it was on no page before."""
    if least is None:
        return hits
    passes = hits["score"].to_numpy() >= least
    return hits if passes.all() else hits.slice(0, int(np.argmin(passes)))


def _behind(hits: pa.Table | None, deeper: pa.Table) -> pa.Table:
    """What a deeper look found that is not among the hits, behind them."""
    if hits is None:
        return deeper
    new = pc.invert(pc.is_in(deeper[ROW_ID], value_set=hits[ROW_ID].combine_chunks()))
    return pa.concat_tables([hits, deeper.filter(new)]).combine_chunks()
