"""Which night of the month has what. Five of the first nights and the last five have equal work and no trouble."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from clipmill.jobs.committing.commit import STEPS
from clipmill.jobs.publishing.night import Night
from tests.publishing.month import troubles
from tests.publishing.month.month import Month

Trouble = Callable[[Month], Night]


@dataclass(frozen=True, slots=True)
class Evening:
    """`what`: for the result's page. `cut`: a shard is cut short that day."""

    what: str = ""
    trouble: Trouble = lambda month: month.night()
    cut: bool = False


def _kill(step: str, *, cut: bool = False) -> Evening:
    return Evening(f"driver killed, {step}", partial(troubles.killed, step=step), cut)


THROTTLED = Evening("the store throttles", troubles.throttled, cut=True)
CLOCK = Evening("driver's clock an hour ahead", troubles.clock_ahead)
GOLDEN = Evening("golden set gets worse: refused", troubles.golden_worse)
HELD = Evening("lease held by another run", troubles.lease_held)
CUT = Evening("a shard is cut short", cut=True)

WEEK = {2: _kill("before_rows"), 3: THROTTLED, 4: CLOCK, 5: GOLDEN, 6: HELD, 7: _kill("after_rows")}
DAYS = {2: _kill("after_rejects", cut=True), 3: HELD, 4: GOLDEN}
MONTH = {
    5: _kill(STEPS[0]),
    6: THROTTLED,
    8: _kill(STEPS[1], cut=True),
    10: CLOCK,
    11: HELD,
    12: CUT,
    13: GOLDEN,
    15: _kill(STEPS[2]),
    16: Evening("another vocabulary, killed once", troubles.new_vocabulary),
    18: Evening("another model, killed twice", troubles.new_model),
    19: CUT,
    20: Evening("back to the old model, killed once", troubles.old_model),
    21: _kill(STEPS[3]),
    22: Evening("taken back by hand, then published", troubles.taken_back),
    23: CUT,
    24: Evening("the new model for good, the old one dropped, killed once", troubles.new_model_for_good),
    25: _kill(STEPS[4]),
}
SAME_WORK = ((2, 3, 4, 7, 9), (26, 27, 28, 29, 30))  # nights of a month without trouble
