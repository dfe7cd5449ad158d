"""Numbers and what they count, in words for a person: `1 row`, `2,000 rows`. Every sentence that counts uses these."""

from collections.abc import Mapping, Sequence
from typing import Any


def counted(number: int, what: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`. `many`: of what takes no s, or is more than the word: ("unit is", "units are")."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def part_of(part: int, whole: int, what: str, does: str, do: str) -> str:
    """`1 of 12 rows has`, `3 of 12 rows have`: of `does` and `do` that which goes with the part."""
    return f"{part:,} of {counted(whole, what)} {does if part == 1 else do}"


def all_of(number: int, what: str) -> str:
    """`all 12 units are`, `the 1 unit is`."""
    return f"the 1 {what} is" if number == 1 else f"all {number:,} {what}s are"


def units_without_rows(failed: Sequence[Mapping[str, Any]]) -> str:
    """In one sentence, the first three by name and reason."""
    named = "; ".join(f"{unit.get('uri', '')} ({unit.get('reason', '')})" for unit in failed[:3])
    more = f"; and {len(failed) - 3:,} more" if len(failed) > 3 else ""
    what = counted(len(failed), "unit failed and has no rows", "units failed and have no rows")
    return f"{what}: {named}{more}"
