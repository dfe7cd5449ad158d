"""The rows at hand that pass a filter, and how they lie: next to each other, or far apart.

N: rows at hand, in their places.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying.at_hand.cells import GATHERED, Span
from clipmill.jobs.querying.vectors import Places

STRETCH = 256  # rows: of so many in a row it is decided whether to compare them all

Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lie:
    """`near`: the marked places in `spans`, of which many are; `far`: the others. All ascend."""

    near: npt.NDArray[np.uint32]
    far: npt.NDArray[np.uint32]
    spans: list[Span]

    @property
    def rows(self) -> int:
        """That are compared, those far apart counted by how long it takes."""
        return sum(stop - start for start, stop in self.spans) + GATHERED * len(self.far)


@dataclass(frozen=True)
class Marked:
    """`count`: of the marked places. `elsewhere`: of the rows without a vector, which have no place, those that pass.
    Immutable."""

    marks_N: Marks
    count: int
    elsewhere: Places

    @classmethod
    def made(cls, marks: Marks, rows: int) -> "Marked":
        """`marks`: of so many rows at hand, and behind them of those without a vector."""
        return cls(marks[:rows], int(np.count_nonzero(marks[:rows])), np.flatnonzero(marks[rows:]))

    @property
    def nbytes(self) -> int:
        """With what `lie` takes, once it is asked for."""
        return self.marks_N.nbytes + 4 * self.count

    @cached_property
    def lie(self) -> Lie:
        places, rows = np.flatnonzero(self.marks_N).astype(np.uint32), len(self.marks_N)
        marked = np.diff(np.searchsorted(places, np.arange(0, rows + STRETCH, STRETCH)))
        many = marked * GATHERED >= STRETCH
        many[1:-1] |= many[:-2] & many[2:]  # to begin anew takes as long as to compare those few
        ends = np.flatnonzero(np.diff(np.concatenate([[False], many, [False]]))) * STRETCH
        spans = [(start, min(stop, rows)) for start, stop in ends.reshape(-1, 2).tolist()]
        is_near = np.repeat(many, marked)
        return Lie(places[is_near], places[~is_near], spans)

    def of(self, spans: list[Span]) -> Marks:
        """Which of the rows of these pass, one span after the other."""
        return np.concatenate([self.marks_N[start:stop] for start, stop in spans])
