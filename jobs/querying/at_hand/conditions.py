"""Filters of whole numbers, told from the rows at hand: of a million rows Lance takes 2 ms of CPU to count those that a
twentieth passes and 7 to name them, more of more; from here it is 1 (by hand, 2026-11-29, beside other work).

N: rows at hand.
"""

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying.at_hand.rows import HeldRows
from clipmill.jobs.querying.filters import KEYWORDS

Condition = tuple[str, str, int]  # column, comparison, number

_CONDITION = re.compile(r"\s*([^\W\d]\w*)\s*(<=|>=|=|<|>)\s*([0-9]{1,18})\s*", re.ASCII)
_AND = re.compile(r"\band\b", re.IGNORECASE)
_COMPARE: dict[str, Callable[[Any, int], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def conditions(predicate: str, schema: pa.Schema) -> tuple[Condition, ...] | None:
    """Of `(width >= 512 AND width < 1024)` and its like, with numbers that the columns can hold; None for all else,
    which is Lance's to understand, or to refuse."""
    found = []
    for part in _AND.split(predicate.removeprefix("(").removesuffix(")")):
        match = _CONDITION.fullmatch(part)
        if match is None or not _is_of(match[1], int(match[3]), schema):
            return None
        found.append((match[1], match[2], int(match[3])))
    return tuple(found)


def _is_of(name: str, number: int, schema: pa.Schema) -> bool:
    if name not in schema.names or name.lower() in KEYWORDS:
        return False
    kind = schema.field(name).type
    return bool(pa.types.is_integer(kind)) and number <= np.iinfo(kind.to_pandas_dtype()).max


def marks(held: HeldRows, asked: tuple[Condition, ...]) -> npt.NDArray[np.bool_] | None:
    """(N,): of which rows all is true; None where a column is not at hand. Of a null nothing is."""
    if not held.has({name for name, _, _ in asked}):
        return None
    found_N = np.ones(len(held), np.bool_)
    for name, comparison, number in asked:
        found_N &= held.each(name, partial(_true, comparison, number))
    return found_N


def marks_of(
    held: HeldRows, asked: tuple[Condition, ...], row_ids_K: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_] | None:
    """(K,): the same of a few rows; None where one of them is not at hand either."""
    found = held.take(row_ids_K, tuple({name for name, _, _ in asked}))
    if found is None:
        return None
    true = [_true(comparison, number, found[name].combine_chunks()) for name, comparison, number in asked]
    return np.logical_and.reduce(true)  # type: ignore[no-any-return]


def _true(comparison: str, number: int, values: pa.Array) -> npt.NDArray[np.bool_]:
    if not values.null_count:
        return _COMPARE[comparison](np.asarray(values), number)  # type: ignore[no-any-return]
    true_B = _COMPARE[comparison](np.asarray(values.fill_null(0)), number)
    return true_B & np.asarray(values.is_valid())  # type: ignore[no-any-return]
