"""Hand units to actors as they become free, several in flight each, and watch that every unit gets on.

The loop knows actors, calls and clocks; what an outcome means for a unit is decided in `jobs.running.attempts`.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.attempts import Attempts, Fate, Item
from clipmill.jobs.running.watch import Watch
from clipmill.schemas.config import Limits
from clipmill.schemas.errors import ClipmillError, SourceChanged, UserError, WrongFormat
from clipmill.schemas.receipts import Outcome, Receipt
from clipmill.schemas.tasks import Task, UnitProgress

TICK_S = 0.5
PROBE_DEADLINES = 20  # a probe may use a whole deadline for one sample, and has to load its model first


@dataclass(slots=True)
class Call:
    """A unit that an actor is working on."""

    item: Item
    watch: Watch
    is_probe: bool


@dataclass(slots=True, eq=False)
class Slot:
    """One actor. `ready` is its first call; until that answers it gets no unit."""

    actor: Any
    ready: Any
    node_id: str = ""
    attached: bool = False
    calls: dict[Any, Call] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)  # ids of units that stood still, for which we killed the actor


OnEnded = Callable[[Slot, Item, Receipt | None], object]


class Dispatcher:
    """Runs a plan to its end on a changing set of actors.

    `wanted`: how many actors there should be; dead ones are replaced and missing ones started up to it. `draining`:
    hand out nothing more. `restarts`: actors that died at work. Whoever owns the run sets the first two as it goes on.
    """

    def __init__(
        self,
        plan: Plan,
        limits: Limits,
        *,
        start_actor: Callable[[], Slot],
        on_receipt: Callable[[Receipt], None],
        units_in_flight: int,
    ) -> None:
        self.plan, self.limits = plan, limits
        self.start_actor, self.on_receipt = start_actor, on_receipt
        self.units_in_flight = units_in_flight
        self.attempts = Attempts(plan.todo, limits.max_attempts)
        self.slots: list[Slot] = []
        self.wanted = 1
        self.draining = False
        self.restarts = 0
        self.on_ended: OnEnded = lambda slot, item, receipt: None  # told of every attempt, whatever came of it
        self._failed_starts = 0

    def adopt(self, slot: Slot) -> None:
        """An actor that was started before the plan was known."""
        self.slots.append(slot)

    def run(self, on_tick: Callable[[], None] = lambda: None) -> None:
        """Until every unit has ended, or `draining` was set and the units in flight are through.

        `on_tick` is called at least every half second; what it raises ends the run.
        """
        import ray

        while not self._finished():
            self._start_missing()
            self._hand_out()
            waiting = [ref for slot in self.slots for ref in slot.calls]
            waiting += [slot.ready for slot in self.slots if not slot.attached]
            if waiting:
                ready, _ = ray.wait(waiting, num_returns=1, timeout=TICK_S)
                if ready:  # whatever else is there already comes along
                    ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
                for ref in ready:
                    self._answered(ref)
            else:
                time.sleep(TICK_S)
            self._kill_stuck()
            on_tick()

    def _finished(self) -> bool:
        if self.draining:
            return not any(slot.calls for slot in self.slots)
        return self.attempts.finished

    def _start_missing(self) -> None:
        while not self.draining and len(self.slots) < self.wanted and self._work_left():
            self.slots.append(self.start_actor())

    def _work_left(self) -> bool:
        left = len(self.attempts.waiting) + len(self.attempts.suspects)
        return left > 0 and len(self.slots) < left + self.attempts.in_flight

    def _hand_out(self) -> None:
        """Breadth first, so that no actor gets a second unit while another has none."""
        if self.draining:
            return
        for depth in range(self.units_in_flight):
            for slot in self.slots:
                if not slot.attached or len(slot.calls) > depth or _is_reserved(slot):
                    continue
                item = self.attempts.take(idle_worker=not slot.calls)
                if item is None:
                    return
                self._start(slot, item)

    def _start(self, slot: Slot, item: Item) -> None:
        unit = item.unit
        task = Task(
            unit=unit,
            attempt=item.attempt,
            skip=dict(item.skip),
            known=self.plan.known.get(unit.unit_id, {}),
            moved_from=self.plan.moved.get(unit.unit_id, ""),
        )
        now_s, deadline_s = time.monotonic(), self.limits.unit_deadline_s
        item.began_s = now_s
        if item.probe:
            ref, watch = slot.actor.find_poison.remote(task), Watch(PROBE_DEADLINES * deadline_s, now_s)
        else:
            ref = slot.actor.run_unit.remote(task)
            watch = Watch(deadline_s, now_s, partial(slot.actor.progress.remote, unit.unit_id), _progress)
        slot.calls[ref] = Call(item, watch, item.probe)

    def _answered(self, ref: Any) -> None:
        slot = next((s for s in self.slots if ref in s.calls or ref == s.ready), None)
        if slot is None:
            return  # of an actor that was dropped a moment ago
        if ref == slot.ready and ref not in slot.calls:
            self._attached(slot)
        else:
            self._ended(slot, ref)

    def _attached(self, slot: Slot) -> None:
        import ray

        try:
            slot.node_id = ray.get(slot.ready)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayError as error:
            self._drop(slot)
            self._failed_starts += 1
            if self._failed_starts >= self.limits.max_attempts * max(1, self.wanted):
                raise ClipmillError(
                    f"workers die while they start: {_first_line(error)}",
                    "look at the worker's log in Ray's session folder; too little memory is the usual reason",
                ) from None
            return
        slot.attached = True

    def _ended(self, slot: Slot, ref: Any) -> None:
        import ray

        call = slot.calls[ref]
        try:
            result = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            del slot.calls[ref]
            self._raised(call, _cause(error))
            self.on_ended(slot, call.item, None)
            return
        except ray.exceptions.RayError as error:
            self._died(slot, error)
            return
        del slot.calls[ref]
        self._failed_starts = 0
        if call.is_probe:
            self.attempts.found(call.item, result)
            return
        receipt: Receipt = result
        if receipt.attempt != call.item.attempt:
            raise AssertionError(
                f"unit {receipt.unit_id}: receipt of attempt {receipt.attempt}, not {call.item.attempt}"
            )
        if receipt.outcome == Outcome.SOURCE_CHANGED:
            self.attempts.ended(call.item, Fate.SOURCE_CHANGED)
            self.on_ended(slot, call.item, None)
            return
        self.attempts.done(call.item)
        self.on_receipt(receipt)
        self.on_ended(slot, call.item, receipt)

    def _raised(self, call: Call, error: BaseException) -> None:
        """The unit's code raised. A user's mistake ends the run; anything else is an attempt."""
        if isinstance(error, SourceChanged):
            self.attempts.ended(call.item, Fate.SOURCE_CHANGED)
        elif isinstance(error, WrongFormat):
            self.attempts.ended(call.item, Fate.WRONG_FORMAT, f"{error.message}; {error.hint}")
        elif isinstance(error, PermissionError):
            self.attempts.ended(call.item, Fate.FORBIDDEN, _first_line(error))
        elif isinstance(error, UserError):
            raise error
        else:
            self.attempts.ended(call.item, Fate.ERROR, f"{type(error).__name__}: {_first_line(error)}")

    def _died(self, slot: Slot, error: BaseException) -> None:
        """An actor is gone: all of its units rerun, none of the others notice."""
        lost = _is_node_loss(error, slot.node_id)
        calls = list(slot.calls.values())
        self._drop(slot)
        self.restarts += 1
        for call in calls:
            if call.item.unit.unit_id in slot.stuck:
                self.attempts.ended(call.item, Fate.STOOD_STILL)
            elif lost or slot.stuck:  # it only shared the actor with one that stood still
                self.attempts.ended(call.item, Fate.WORKER_LOST)
            else:
                self.attempts.ended(call.item, Fate.WORKER_DIED, _first_line(error))
            self.on_ended(slot, call.item, None)

    def _drop(self, slot: Slot) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(slot.actor, no_restart=True)
        slot.calls.clear()
        self.slots.remove(slot)

    def _kill_stuck(self) -> None:
        import ray

        now_s = time.monotonic()
        for slot in list(self.slots):
            stuck = {call.item.unit.unit_id for call in slot.calls.values() if call.watch.is_stuck(now_s)}
            if stuck:
                slot.stuck = stuck
                self._died(slot, ray.exceptions.RayError("killed because a unit stood still"))


def _progress(question: Any) -> UnitProgress | None:
    import ray

    ready, _ = ray.wait([question], timeout=0)
    if not ready:
        return None
    try:
        answer: UnitProgress = ray.get(question)
    except ray.exceptions.RayError:
        return UnitProgress(waits=True)  # the actor is gone, which its units' own calls will say, and why
    return answer


def _is_reserved(slot: Slot) -> bool:
    return any(call.item.alone for call in slot.calls.values())


def _cause(error: Any) -> BaseException:
    cause = error.cause
    return cause if isinstance(cause, BaseException) else error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def blames_node(error: BaseException) -> bool:
    """Whether Ray says that the node went, and the actor only with it."""
    import ray

    if getattr(error, "preempted", False) or isinstance(error, ray.exceptions.NodeDiedError):
        return True
    text = str(error)
    return "node" in text and ("died" in text or "dead" in text or "preempt" in text) and "worker process" not in text


def _is_node_loss(error: BaseException, node_id: str) -> bool:
    """Preempted, or the node is gone: not the unit's fault. The node table may lag behind the actor's death."""
    import ray

    if blames_node(error):
        return True
    return not any(n["Alive"] and n["NodeID"] == node_id for n in ray.nodes())
