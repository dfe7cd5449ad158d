"""All vectors of a column at hand, in a byte a value, so that what cannot be among the nearest is seen without them.

A row is kept as its unit vector less a centre, rounded to bytes, and how far it may be from what those say. So is the
query, and what is kept of a comparison is what that leaves possible: no answer differs from one by the vectors.

N: rows at hand, in their places. S: rows looked at. M: rows asked for. B: rows of a block. D: dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numkong
import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying import deadline
from clipmill.jobs.querying.at_hand.cells import Cells, Span
from clipmill.jobs.querying.at_hand.marked import Marked, Marks
from clipmill.jobs.querying.vectors import BLOCK, Floats, Ids, Places, ascending, exact_cosines, normalise, to_float32

_ROUNDING = 1e-5  # of cosines in float32, at most
_PIECE = 65_536  # rows, between two looks at the clock
_GROUPS = 16  # for each row that is wanted: their largest say where to cut, nearly, and all rows need no ordering


@dataclass(frozen=True, slots=True)
class Sketch:
    """`step_N`: what a byte stands for. `off_N`: how far, at most, a row is from what its bytes say."""

    bytes_ND: npt.NDArray[np.int8]
    step_N: Floats
    off_N: Floats
    centre_D: Floats


class _Asked:
    """A unit vector as the sketch is asked: rounded to bytes, and what that leaves rounded again. `offs`: how wrong a
    cosine may be because of it, by the first alone and by both."""

    def __init__(self, vector_D: Floats, sketch: Sketch) -> None:
        self.vector_D, self.centre = vector_D, float(np.einsum("d,d->", vector_D, sketch.centre_D))
        # A unit vector less the centre is no longer than this, and rounding adds half a step at most to each number.
        longest = (1 + float(np.linalg.norm(sketch.centre_D))) * (1 + len(vector_D) ** 0.5 / 254)
        self.bytes_2D = np.empty((2, len(vector_D)), np.int8)
        self.steps, self.offs = [0.0, 0.0], [0.0, 0.0]
        left_D = vector_D
        for n in range(2):
            step = max(float(np.abs(left_D).max(initial=0)) / 127, 1e-30)
            near_D = np.rint(left_D / np.float32(step))
            left_D = left_D - near_D * np.float32(step)
            self.bytes_2D[n], self.steps[n] = near_D, step
            self.offs[n] = float(np.linalg.norm(left_D)) * longest + _ROUNDING


@dataclass(frozen=True, slots=True)
class Looked:
    """Cosines of rows by the sketch alone, each wrong by what the query's bytes leave and the row's `off_S`."""

    asked: _Asked
    places_S: Places
    score_S: Floats
    off_S: Floats

    def __len__(self) -> int:
        return len(self.places_S)

    def best_first(self, count: int) -> Places:
        """Which of these are the `count` nearest by the sketch, and all that are as near as the last of them: of
        copies each page would see others."""
        best = np.arange(len(self))
        if count < len(self):
            best = np.flatnonzero(self.score_S >= np.partition(self.score_S, len(self) - count)[len(self) - count])
        return best[np.argsort(-self.score_S[best], kind="stable")]

    def only(self, which: Marks | Places) -> "Looked":
        return Looked(self.asked, self.places_S[which], self.score_S[which], self.off_S[which])

    def possible(self, depth: int, off: float) -> "Looked":
        """Those that can be among the `depth` nearest, where a cosine is wrong by `off` and the row's own."""
        if len(self) <= depth:
            return self
        cut = _cut(self.score_S - self.off_S, depth) - 2 * off
        return self.only(np.flatnonzero(self.score_S + self.off_S >= cut))


class WarmVectors:
    """`stored` gives the vectors of the few rows that can be among the nearest (B, D), by their places and row ids.

    Memory: D + 16 bytes per row, and 4 to 12 more where the rows do not come in the order of their ids. Immutable.
    """

    def __init__(
        self,
        row_ids_N: Ids,
        sketch: Sketch,
        stored: Callable[[Places, Ids], npt.NDArray[np.float16]],
        cells: Cells | None = None,
    ) -> None:
        self.row_ids_N, self.sketch, self.cells, self._stored = row_ids_N, sketch, cells, stored
        order_N = np.argsort(row_ids_N, kind="stable")
        in_order = bool((order_N == np.arange(len(order_N))).all())
        self._place_N = None if in_order else order_N.astype(np.uint32 if len(order_N) < 1 << 32 else np.intp)
        self._sorted_N = row_ids_N if in_order else row_ids_N[order_N]
        self._first = int(self._sorted_N[0]) if len(order_N) else 0
        # Without gaps, as in a table from which nothing was deleted, an id says its place among them.
        self._gapless = len(order_N) > 0 and int(self._sorted_N[-1]) - self._first == len(order_N) - 1
        if self._gapless:
            self._sorted_N = row_ids_N[:0]

    def __len__(self) -> int:
        return len(self.row_ids_N)

    @property
    def nbytes(self) -> int:
        """Of everything that a row takes here."""
        of_rows = (self.row_ids_N, self.sketch.bytes_ND, self.sketch.step_N, self.sketch.off_N)
        order = 0 if self._place_N is None else self._place_N.nbytes + self._sorted_N.nbytes
        return sum(values.nbytes for values in of_rows) + order

    def best(self, vector_D: Floats, depth: int, row_ids_M: Ids | None = None) -> tuple[Ids, Floats]:
        """Row ids and cosines with a unit vector of the `depth` nearest rows, of all or of those asked for that have a
        vector, and of some more: all that are as near as the last of them are there."""
        asked = _Asked(vector_D, self.sketch)
        if row_ids_M is None:
            return self.settled(self._in_a_row(asked, [(0, len(self))]), depth)
        return self.settled(self._gathered(asked, self._places(row_ids_M)), depth)

    def best_of(self, vector_D: Floats, depth: int, marked: Marked) -> tuple[Ids, Floats]:
        """As `best`, of the rows of marked places. Of stretches where many are marked all rows are compared."""
        asked, lie = _Asked(vector_D, self.sketch), marked.lie
        score_S, close = np.empty(marked.count, np.float32), len(lie.near)
        if lie.spans:
            np.compress(marked.of(lie.spans), self._dots_in_a_row(asked, lie.spans), out=score_S[:close])
        places_S = np.concatenate([lie.near, lie.far]).astype(np.intp)
        self._dots_gathered(asked.bytes_2D[:1], places_S[close:], score_S[None, close:])
        return self.settled(self._scaled(asked, places_S, score_S[None]), depth)

    def look(self, vector_D: Floats, spans: list[Span]) -> Looked:
        """At the rows of some partitions, and at those that are in none."""
        assert self.cells is not None
        return self._in_a_row(_Asked(vector_D, self.sketch), self.cells.joined(spans))

    def settled(self, looked: Looked, depth: int) -> tuple[Ids, Floats]:
        """As `best`, of the rows looked at."""
        asked, looked = looked.asked, looked.possible(depth, looked.asked.offs[0])
        if len(looked) > depth:  # the query as it is spares reading most of those
            looked = self._gathered(asked, looked.places_S, closely=True).possible(depth, asked.offs[1])
        return self.row_ids_N[looked.places_S], self._exact(asked.vector_D, looked.places_S)

    def cosines(self, vector_D: Floats, row_ids_M: Ids) -> tuple[Ids, Floats]:
        """Row ids and cosines with a unit vector, of those asked for that have a vector."""
        places = self._places(row_ids_M)
        return self.row_ids_N[places], self._exact(vector_D, places)

    def marks(self, row_ids_M: Ids) -> Marks:
        """(N,): whether the row of a place is one of those."""
        marks_N = np.zeros(len(self), np.bool_)
        marks_N[self._places(row_ids_M)] = True
        return marks_N

    def place_of(self, row_ids_M: Ids) -> Places:
        """(M,), by row id; -1 of a row that is not here."""
        if not len(self):
            return np.full(len(row_ids_M), -1, np.intp)
        if self._gapless:
            place_M = row_ids_M.astype(np.intp) - self._first
            absent_M = (place_M < 0) | (place_M >= len(self))
        else:
            place_M = np.minimum(np.searchsorted(self._sorted_N, row_ids_M), len(self) - 1)
            absent_M = self._sorted_N[place_M] != row_ids_M
        if self._place_N is not None:
            place_M = self._place_N[np.where(absent_M, 0, place_M)].astype(np.intp)
        place_M[absent_M] = -1
        return place_M

    def _places(self, row_ids_M: Ids) -> Places:
        """Of those that are there, by row id."""
        place_M = self.place_of(ascending(row_ids_M))
        return place_M[place_M >= 0]

    def _in_a_row(self, asked: _Asked, spans: list[Span]) -> Looked:
        sketch = self.sketch
        score_S = self._dots_in_a_row(asked, spans)
        score_S *= _joined(sketch.step_N, spans)
        score_S *= np.float32(asked.steps[0])
        score_S += np.float32(asked.centre)
        places_S = np.concatenate([np.arange(0), *(np.arange(*span) for span in spans)])
        return Looked(asked, places_S, score_S, _joined(sketch.off_N, spans))

    def _dots_in_a_row(self, asked: _Asked, spans: list[Span]) -> Floats:
        at, dots_S = 0, np.empty(sum(stop - start for start, stop in spans), np.float32)
        for first, last in spans:
            for start in range(first, last, _PIECE):
                deadline.check()
                stop = min(start + _PIECE, last)
                _dots(asked.bytes_2D[:1], self.sketch.bytes_ND[start:stop], dots_S[None, at : at + stop - start])
                at += stop - start
        return dots_S

    def _gathered(self, asked: _Asked, places_S: Places, *, closely: bool = False) -> Looked:
        """`closely`: by all that is known of the query, as if it were not rounded."""
        queries_QD = asked.bytes_2D[: 1 + closely]
        score_QS = np.empty((len(queries_QD), len(places_S)), np.float32)
        self._dots_gathered(queries_QD, places_S, score_QS)
        return self._scaled(asked, places_S, score_QS)

    def _dots_gathered(self, queries_QD: npt.NDArray[np.int8], places_S: Places, out_QS: Floats) -> None:
        sketch = self.sketch
        rows_BD = np.empty((BLOCK, sketch.bytes_ND.shape[1]), np.int8)  # the same memory block after block
        score_QB = np.empty((len(queries_QD), BLOCK), np.float32)
        for start in range(0, len(places_S), BLOCK):
            deadline.check()
            places_B = places_S[start : start + BLOCK]
            count = len(places_B)
            np.take(sketch.bytes_ND, places_B, axis=0, out=rows_BD[:count], mode="clip")
            found_QB = score_QB if count == BLOCK else np.empty((len(queries_QD), count), np.float32)
            _dots(queries_QD, rows_BD[:count], found_QB)
            out_QS[:, start : start + count] = found_QB

    def _scaled(self, asked: _Asked, places_S: Places, score_QS: Floats) -> Looked:
        sketch = self.sketch
        score_S = score_QS[0] * np.float32(asked.steps[0])
        if len(score_QS) > 1:
            score_S += score_QS[1] * np.float32(asked.steps[1])
        score_S *= sketch.step_N[places_S]
        score_S += np.float32(asked.centre)
        return Looked(asked, places_S, score_S, sketch.off_N[places_S])

    def _exact(self, vector_D: Floats, places_M: Places) -> Floats:
        return exact_cosines(lambda places_B: self._stored(places_B, self.row_ids_N[places_B]), places_M, vector_D)


def _dots(queries_QD: npt.NDArray[np.int8], rows_BD: npt.NDArray[np.int8], out_QB: Floats) -> None:
    """Whole numbers, exact up to 2^24 and rounded beyond."""
    numkong.cdist(queries_QD, rows_BD, "dot", out=out_QB, out_dtype="float32")


def _joined(values_N: Floats, spans: list[Span]) -> Floats:
    """Of some spans of places, one after the other."""
    return np.concatenate([values_N[:0], *(values_N[start:stop] for start, stop in spans)])


def _cut(values_S: Floats, depth: int) -> float:
    """No more than the `depth`-th largest of them, and nearly that."""
    groups = _GROUPS * depth
    if len(values_S) >= 2 * groups:
        # Neighbours, which are alike, go into different groups.
        each = len(values_S) // groups
        values_S = values_S[: each * groups].reshape(each, groups).max(axis=0)
    return float(np.partition(values_S, len(values_S) - depth)[len(values_S) - depth])


def sketch_rows(rows_SD: npt.NDArray[np.float16], centre_D: Floats) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Unit vectors of the rows less a centre as bytes (S, D), what a byte of each row stands for, and how far the row
    may be from what its bytes say (S,): no cosine with a unit vector is wrong by more."""
    bytes_SD = np.empty(rows_SD.shape, np.int8)
    step_S, off_S = np.empty(len(rows_SD), np.float32), np.empty(len(rows_SD), np.float32)
    for start in range(0, len(rows_SD), BLOCK):
        block = slice(start, start + BLOCK)
        unit_BD = normalise(to_float32(rows_SD[block]))
        unit_BD -= centre_D
        step_B = np.maximum(unit_BD.max(axis=1), -unit_BD.min(axis=1)) / np.float32(127)
        near_BD = np.rint(unit_BD / np.where(step_B == 0, 1, step_B)[:, None])
        bytes_SD[block] = near_BD
        near_BD *= step_B[:, None]
        near_BD -= unit_BD
        step_S[block], off_S[block] = step_B, np.sqrt(np.einsum("bd,bd->b", near_BD, near_BD)) + _ROUNDING
    return bytes_SD, step_S, off_S
