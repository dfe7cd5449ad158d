"""What people write in Python where a search takes something else: understood where it is clear, else one sentence."""

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from clipmill.schemas.errors import UserError

# What other libraries call an option of `Query`.
OTHER_NAMES = {"limit": "k", "n": "k", "top_k": "k", "filter": "where", "fields": "columns", "tags": "all_tags"}


def options(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """`given` by the names of `Query`: `limit` is `k`. Raises UserError that names the nearest one for others."""
    found: dict[str, Any] = {}
    names = sorted(known)
    for name, value in given.items():
        ours = "k" if name == "limit" else name
        if ours not in names:
            near = difflib.get_close_matches(name.lower(), names, n=1)
            said = OTHER_NAMES.get(name.lower()) or (near[0] if near else "")
            raise UserError(
                f"a search has no option {name}", f"did you mean {said}?" if said else f"there is: {', '.join(names)}"
            )
        if ours in found:
            raise UserError("both k and limit are given", "they are the same: leave one out")
        found[ours] = value
    return found


def strings(name: str, value: Any) -> tuple[str, ...]:
    """One string or several. Raises UserError for anything else among them."""
    several = (value,) if isinstance(value, str) else value
    if isinstance(several, Mapping | bytes) or not isinstance(several, Iterable):
        raise _wrong(name, value, "a string, or a list of them")
    found = tuple(several)
    for one in found:
        if not isinstance(one, str):
            raise _wrong(f"{name}, of its entries one,", one, "strings only")
    return found


def whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _wrong(name, value, "a whole number")
    return int(value)


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong(name, value, "a number")
    return float(value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _wrong(name: str, value: Any, wanted: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"a {type(value).__name__}"
    return UserError(f"{name} is {shown}", f"give {wanted}")
