"""What a step makes of the rows that are left, and what it is told beside its own keys."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
import numpy.typing as npt

from clipmill.jobs.selecting.rows import Floats, Places
from clipmill.schemas.job.recipe import Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`keep`: a mask of the rows, or places. `without_value`: rows that leave because they have no score, caption or
    vector. `least`: of the rows that stay, the lowest score. `values`: the score, by the name it is written under.
    `note`: what else a reader of the card should know."""

    keep: npt.NDArray[np.bool_] | Places
    without_value: int | None = None
    least: float | None = None
    values: tuple[str, Floats] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of a step in its recipe. `nth`: how many steps with the same operator stand before it. `allow`: places beside the
    table's own source that pictures may be read from, see `jobs.table.originals`."""

    nth: int
    allow: tuple[str, ...]
    tell: Callable[[str], None]


def bounded(name: str, values_N: Floats, asked: Bounds, *, note: str = "") -> Outcome:
    """The rows within the bounds; NaN is no value. Of the best share the number is exact, rounded down, of the rows
    that have a value; where equal ones stand on both sides of the cut, the lower ids stay."""
    there_N = ~np.isnan(values_N)
    if asked.top is not None:
        count = floor(Fraction(str(asked.top)) * int(there_N.sum()))
        order = np.argsort(-values_N, kind="stable")[:count]  # NaN comes last
        keep_N = np.zeros(len(values_N), np.bool_)
        keep_N[order] = True
    else:
        # A Python number is compared as what the column is made of: 0.7 is at least 0.7 as a float32 has it, too.
        keep_N = there_N.copy()
        if asked.at_least is not None:
            keep_N &= values_N >= asked.at_least
        if asked.at_most is not None:
            keep_N &= values_N <= asked.at_most
    return Outcome(
        keep=keep_N,
        without_value=int((~there_N).sum()),
        least=float(values_N[keep_N].min()) if keep_N.any() else None,
        values=(name, values_N),
        note=note,
    )


def worth_first(values_N: Floats) -> npt.NDArray[np.float64]:
    """Keys that sort the greatest first and rows without a value last."""
    return np.where(np.isnan(values_N), np.inf, -values_N.astype(np.float64))
