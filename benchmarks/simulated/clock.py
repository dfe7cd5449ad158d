"""Time that passes only where somebody waits, and what happens in it."""

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Any


class Clock:
    """Stands in for the module `time` in what is driven. `own_cpu_s`: processor time of the simulation itself, which is
    no part of what it measures."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.own_cpu_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        with Own(self):
            self.pass_until(self.now_s + seconds, lambda: False)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now_s + seconds, self._number, event))

    def pass_until(self, until_s: float, is_there: Callable[[], bool]) -> None:
        """Event after event, to `until_s` or until something is there."""
        while not is_there():
            if not self._events or self._events[0][0] > until_s:
                self.now_s = max(self.now_s, until_s)
                return
            at_s, _, event = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s)
            event()


class Own:
    """Processor time inside counts as the simulation's own. Not to be nested."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self._since_s = clock, 0.0

    def __enter__(self) -> None:
        self._since_s = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.clock.own_cpu_s += time.process_time() - self._since_s


class Ref:
    """What Ray calls an ObjectRef: answered once, by a value or by an error."""

    __slots__ = ("error", "is_done", "value", "world")

    def __init__(self, world: "Answers") -> None:
        self.world, self.is_done = world, False
        self.value: Any = None
        self.error: BaseException | None = None

    def answer(self, value: Any = None, error: BaseException | None = None) -> None:
        if not self.is_done:
            self.is_done, self.value, self.error = True, value, error
            self.world.answered[self] = None


class Answers:
    """`ray.wait` and `ray.get` over `Ref`s. `answered`: whose answer nobody has taken, the oldest first."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.answered: dict[Ref, None] = {}
        self.waits = self.looked_at = 0  # calls of `wait`, and the references of all of them

    def wait(self, refs: Sequence[Ref], *, num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Ref], list[Ref]]:
        with Own(self.clock):
            self.waits, self.looked_at = self.waits + 1, self.looked_at + len(refs)
            if len(refs) == 1 and not timeout:  # a question of the watch
                return [ref for ref in refs if ref.is_done], []
            asked = set(refs)
            for ref in [ref for ref in self.answered if ref not in asked]:
                del self.answered[ref]  # of an actor that was dropped
            if num_returns == 1 and not self.answered:
                self.clock.pass_until(self.clock.now_s + timeout, lambda: not asked.isdisjoint(self.answered))
            ready = [ref for ref in self.answered if ref in asked][:num_returns]
            return ready, []

    def get(self, ref: Ref, *, timeout: float | None = None) -> Any:
        assert ref.is_done, "the dispatcher asks only for what is there"
        self.answered.pop(ref, None)
        if ref.error is not None:
            raise ref.error
        return ref.value
