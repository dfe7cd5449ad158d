"""When a share says nothing: the one rule by which nights and promotions judge how much of a table is there."""

from clipmill.schemas.job.nightly import MIN_MISSES

FEW_SHARE = 0.1  # of all: few misses that are more than this do count


def are_few(misses: int, of: int, min_misses: int = MIN_MISSES) -> bool:
    """So few that their share says little of a rate: by k events, its standard error is 1/sqrt(k) of it."""
    return misses < min_misses and misses <= FEW_SHARE * of


def passes(count: int, of: int, least: float, min_misses: int = MIN_MISSES) -> tuple[bool, bool]:
    """(Is `count` of `of` at least the share `least`, or short of it by few; is it the latter). `least` 1 allows no
    miss at all."""
    share = count / of if of else 0.0
    few = share < least < 1 and are_few(of - count, of, min_misses)
    return few or share >= least, few
