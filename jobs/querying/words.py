"""Which captions have the words, best first, as Lance's full-text index ranks them.

Without a filter Lance stops as soon as nothing better can come. Under one it works out the filter, and looks at each
caption that has the words, or at each that passes: of a million rows 13 to 17 ms of CPU where half pass, and 1 to 3 for
four hundred without the filter. So of a filter that many pass a server, which knows who does, chooses from those. Where
5 % pass it would have to look as far as costs as much, and often in vain where thousands are equal (by hand,
2026-11-29); there Lance is told who passes (`mask`). What it said is kept for the next page, or the next picture to be
near to.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.warm import those_that_pass
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.mask import is_told, only_passing
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.schemas.errors import UserError

MAX_TIES = 10_000
TEXT_COLUMN = "caption"

# Percent of the captions up to which Lance looks at each one that passes a filter; of more it goes through those that
# have the words. Of a million rows that takes 5 to 9 ms of CPU for words that 8 % have, and to look at each one 6 where
# 1 % pass and 15 where 5 % do (by hand, 2026-11-29). Left alone, Lance looks at each one up to 10 %.
_WEIGHED_ALL = 1
_WIDENING = 4
_MANY_PASS = 0.2  # of all rows
_SPARE = 2  # times as many as hold those wanted by chance: those equal to the last one settle nothing


def full_text(snapshot: Snapshot, text: str, depth: int, predicate: str | None, column: str = "") -> pa.Table:
    """Columns _rowid and bm25 of the captions that hold any of the words, best first: `depth`, and those as good as the
    last of them (up to `MAX_TIES`), or all there are. `column`: of the vectors at hand, if any."""
    if not snapshot.index_names(TEXT_COLUMN):
        raise UserError("the captions have no full-text index", "run `clipmill index TABLE`, then search again")
    if predicate is not None and column in snapshot.warm:
        found = _chosen(snapshot, text, depth, predicate, column)
        if found is not None:
            return _with_equals(found, depth)
    # Under a filter a question costs nearly the same whatever the limit, so one is asked, and not one for each time
    # that the last of so many has equals.
    wanted = depth + 1 if predicate is None else MAX_TIES + depth
    while True:
        found = _asked(snapshot, text, wanted, predicate)
        scores = found["bm25"].to_numpy()
        # Which captions of the last score are among them is Lance's choice, so it is all of them or none.
        if len(found) < wanted or scores[-1] < scores[depth - 1] or wanted >= MAX_TIES:
            return _with_equals(found, depth)
        wanted *= _WIDENING


def _is_told(snapshot: Snapshot, predicate: str) -> bool:
    """Whether Lance is told who passes instead of the filter: of more than it would look at one by one, unless rows
    wait for the index, whose words weigh otherwise under each filter."""
    many = snapshot.count(predicate) > _WEIGHED_ALL / 100 * snapshot.num_rows
    return many and snapshot.full_text_is_whole and is_told(snapshot, predicate)


def _chosen(snapshot: Snapshot, text: str, depth: int, predicate: str, column: str) -> pa.Table | None:
    """Those that pass of what is found without the filter; None where few pass, thousands are equal, or rows are not
    in the index."""
    by_chance, wanted = snapshot.count(predicate) / max(1, snapshot.num_rows), depth + 1
    if by_chance < _MANY_PASS or not snapshot.full_text_is_whole:
        return None
    while by_chance * wanted < _SPARE * depth:
        wanted *= _WIDENING
    while wanted <= MAX_TIES:
        found = _asked(snapshot, text, wanted, None)
        whole = len(found) < wanted
        if not whole:
            found = found.filter(pc.greater(found["bm25"], found["bm25"][-1]))
        found = found.filter(pa.array(those_that_pass(snapshot, column, predicate, found[ROW_ID].to_numpy())))
        if whole or len(found) >= depth:
            return found
        wanted *= _WIDENING
    return None


def _with_equals(found: pa.Table, depth: int) -> pa.Table:
    if len(found) <= depth:
        return found
    scores = found["bm25"].to_numpy()
    return found.slice(0, int(np.count_nonzero(scores >= scores[depth - 1])))


def _asked(snapshot: Snapshot, text: str, wanted: int, predicate: str | None) -> pa.Table:
    """The `wanted` best or fewer, best first; of equal ones those that Lance chose."""
    from lance.query import MatchQuery

    os.environ.setdefault("LANCE_FLAT_SEARCH_PERCENT_THRESHOLD", str(_WEIGHED_ALL))

    def make() -> pa.Table:
        told = predicate is not None and _is_told(snapshot, predicate)
        narrowed = only_passing(snapshot, predicate) if predicate and told else {"filter": predicate}
        with filter_errors(predicate):
            found = snapshot.dataset.scanner(
                columns=["_score"],
                full_text_query=MatchQuery(text, TEXT_COLUMN),
                prefilter=True,
                limit=wanted,
                with_row_id=True,
                **narrowed,
            ).to_table()
        found = found.sort_by([("_score", "descending"), (ROW_ID, "ascending")]).combine_chunks()
        return pa.table({ROW_ID: found[ROW_ID], "bm25": found["_score"]})

    return snapshot.rankings.get_or_make(("words", text, wanted, predicate), make)
