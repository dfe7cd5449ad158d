"""Whether an actor still gets on with a unit: it may take as long as it needs, but not stand still.

Only when the time is over is the actor asked how far it is, so that a run in which all is well asks nothing.
"""

from collections.abc import Callable
from typing import Any

from clipmill.schemas.unit.tasks import UnitProgress

ANSWER_S = 10.0  # an actor whose interpreter is stuck never answers


class Watch:
    """The clock of one call. `ask` sends a question, and `look` gives its answer, None while there is none; without
    `ask` the call has `allowed_s` in all."""

    def __init__(
        self,
        allowed_s: float,
        now_s: float,
        ask: Callable[[], Any] | None = None,
        look: Callable[[Any], UnitProgress | None] = lambda question: None,
    ) -> None:
        self._allowed_s, self._ask, self._look = allowed_s, ask, look
        self._deadline_s = now_s + allowed_s
        self._steps = 0
        self._question: Any = None

    def is_stuck(self, now_s: float) -> bool:
        """Whether there was no step for `allowed_s`. To be called often; it never waits."""
        if self._question is None:
            if now_s < self._deadline_s:
                return False
            if self._ask is None:
                return True
            self._question = self._ask()
            self._deadline_s = now_s + ANSWER_S
        answer = self._look(self._question)
        if answer is None:
            return now_s >= self._deadline_s
        self._question, self._deadline_s = None, now_s + self._allowed_s
        stuck = not answer.waits and answer.steps <= self._steps
        self._steps = answer.steps
        return stuck
