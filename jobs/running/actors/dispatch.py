"""Hand units to actors as they become free, several in flight each, and watch that every unit gets on.

The loop knows actors, calls and clocks; what an outcome means for a unit is decided in `jobs.running.actors.attempts`.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from clipmill.jobs.cluster.nodes import leaving
from clipmill.jobs.cluster.patience import Patience
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.actors.attempts import Attempts, Fate, Item
from clipmill.jobs.running.actors.deaths import cause, first_line, is_node_loss
from clipmill.jobs.running.actors.slots import Call, Slot, progress
from clipmill.jobs.running.actors.watch import Watch
from clipmill.schemas.errors import ClipmillError, SourceChanged, UserError, WrongFormat
from clipmill.schemas.job.config import Limits
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.tasks import Task

TICK_S = 0.5
PAUSE_S, FEW = 2e-4, 100  # of each call beyond so many: a turn goes over all of them, so one takes several receipts
LOOK_EVERY_S = 1.0  # at the nodes: a spot machine has 30 s to 2 minutes, Ray's own drain 30 s
PROBE_DEADLINES = 20  # a probe may use a whole deadline for one sample, and has to load its model first


OnEnded = Callable[[Slot, Item, Receipt | None], object]


class Dispatcher:
    """Runs a plan to its end on a changing set of actors.

    `wanted`: how many actors there should be; dead ones are replaced and missing ones started up to it, and those that
    the queue has nothing for are let go. `draining`: hand out nothing more. Whoever owns the run sets these two as it
    goes on. `restarts`: actors that died at work; `worker_s`: seconds of all actors that were ready, added up.
    """

    def __init__(
        self,
        plan: Plan,
        limits: Limits,
        *,
        start_actor: Callable[[], Slot],
        on_receipt: Callable[[Receipt], None],
        units_in_flight: int,
        patience: Patience,
    ) -> None:
        self.plan, self.limits = plan, limits
        self.start_actor, self.on_receipt = start_actor, on_receipt
        self.units_in_flight = units_in_flight
        self.patience = patience
        self.attempts = Attempts(plan.todo, limits.max_attempts)
        self.slots: list[Slot] = []
        self.wanted = 1
        self.draining = False
        self.restarts = self.most_at_once = 0
        self.worker_s = 0.0
        self.on_ended: OnEnded = lambda slot, item, receipt: None  # told of every attempt, whatever came of it
        self._failed_starts, self._tick_s = 0, 0.0
        self._looked_s = self._counted_s = time.monotonic()

    def adopt(self, slot: Slot) -> None:
        """An actor that was started before the plan was known."""
        self.slots.append(slot)

    def run(self, on_tick: Callable[[], None] = lambda: None) -> None:
        """Until every unit has ended, or `draining` was set and the units in flight are through. Raises NoWorkers
        where the cluster has room for no actor for too long.

        `on_tick` is called at least every half second; what it raises ends the run.
        """
        import ray

        self._counted_s = time.monotonic()
        self.patience.rest()  # what the workers took to prepare was no waiting for room
        while not self._finished():
            self._look_at_nodes()
            if is_time := time.monotonic() >= self._tick_s:  # not with every receipt
                self._tick_s = time.monotonic() + TICK_S
                self._let_go()
            self._start_missing()
            self._hand_out()
            waiting = [ref for slot in self.slots for ref in slot.open]
            if waiting:
                ready, _ = ray.wait(waiting, num_returns=1, timeout=TICK_S)
                if ready:  # whatever else is there by then comes along
                    time.sleep(PAUSE_S * max(0, len(waiting) - FEW))
                    ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
                for ref in ready:
                    self._answered(ref)
            else:
                time.sleep(TICK_S)
            if is_time:
                self._kill_stuck()
            self._count()
            on_tick()

    def _finished(self) -> bool:
        if self.draining:
            return not any(slot.calls for slot in self.slots)
        return self.attempts.finished

    def _look_at_nodes(self) -> None:
        """Those that leave get no more units; and whether anybody has a place at all."""
        if any(slot.node_id for slot in self.slots):
            self.patience.rest()
        elif not self.draining:
            self.patience.look()
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        found = leaving()
        new = [slot for slot in self.slots if slot.node_id in found and not slot.leaving]
        for slot in new:
            slot.leaving = True
        if units := sum(len(slot.calls) for slot in new):
            count = len({slot.node_id for slot in new})
            units_fly = counted(units, "unit in flight ends", "units in flight end")
            move = "moves" if units == 1 else "move"
            self.patience.say(f"nodes that leave: {count}; {units_fly} there in time, or {move}")

    def _let_go(self) -> None:
        """Actors without a unit on nodes that leave, and all that the queue has nothing for: their nodes may go."""
        if self.draining:
            return
        queued = len(self.attempts.waiting) + len(self.attempts.suspects)
        needed = max(1, queued + self.attempts.in_flight)
        for slot in reversed(list(self.slots)):
            too_many = not slot.node_id and len(self.slots) > needed
            idle = not slot.calls and not queued and self.attempts.in_flight > 0
            if too_many or idle or (slot.leaving and not slot.calls):
                self._drop(slot)

    def _start_missing(self) -> None:
        while not self.draining and self._staying() < self.wanted and self._work_left():
            self.slots.append(self.start_actor())

    def _staying(self) -> int:
        return sum(not slot.leaving for slot in self.slots)

    def _work_left(self) -> bool:
        left = len(self.attempts.waiting) + len(self.attempts.suspects)
        return left > 0 and self._staying() < left + self.attempts.in_flight

    def _count(self) -> None:
        now_s = time.monotonic()
        ready = sum(slot.attached for slot in self.slots)
        self.worker_s += ready * (now_s - self._counted_s)
        self._counted_s, self.most_at_once = now_s, max(self.most_at_once, ready)

    def _hand_out(self) -> None:
        """Breadth first, so that no actor gets a second unit while another has none."""
        if self.draining:
            return
        takers = [s for s in self.slots if len(s.calls) < self.units_in_flight and s.attached and not s.leaving]
        for depth in range(self.units_in_flight):
            for slot in takers:
                if len(slot.calls) > depth or slot.is_reserved:
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
            kin=self.plan.kin.get(unit.unit_id, ()),
        )
        now_s, deadline_s = time.monotonic(), self.limits.unit_deadline_s
        item.began_s = now_s
        if item.probe:
            ref, watch = slot.actor.find_poison.remote(task), Watch(PROBE_DEADLINES * deadline_s, now_s)
        else:
            ref = slot.actor.run_unit.remote(task)
            watch = Watch(deadline_s, now_s, partial(slot.actor.progress.remote, unit.unit_id), progress)
        slot.calls[ref] = Call(item, watch, item.probe)

    def _answered(self, ref: Any) -> None:
        slot = next((s for s in self.slots if ref in s.calls or ref in (s.ready, s.placed)), None)
        if slot is None:
            return  # of an actor that was dropped a moment ago
        if ref == slot.placed:
            self._placed(slot)
        elif ref == slot.ready:
            self._attached(slot)
        else:
            self._ended(slot, ref)

    def _placed(self, slot: Slot) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # `ready` says what became of it
            slot.node_id = ray.get(slot.placed)
        slot.placed = None

    def _attached(self, slot: Slot) -> None:
        import ray

        try:
            slot.node_id = ray.get(slot.ready)
        except ray.exceptions.RayTaskError as error:
            raise cause(error) from None
        except ray.exceptions.RayError as error:
            self._drop(slot)
            if slot.leaving or is_node_loss(error, slot.node_id):
                return
            self._failed_starts += 1
            if self._failed_starts >= self.limits.max_attempts * max(1, self.wanted):
                raise ClipmillError(
                    f"workers die while they start: {first_line(error)}",
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
            self._raised(call, cause(error), slot)
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

    def _raised(self, call: Call, error: BaseException, slot: Slot) -> None:
        """The unit's code raised. A user's mistake ends the run; anything else is an attempt, but on a node that
        leaves, whose network may have gone before it."""
        if isinstance(error, SourceChanged):
            self.attempts.ended(call.item, Fate.SOURCE_CHANGED)
        elif isinstance(error, WrongFormat):
            self.attempts.ended(call.item, Fate.WRONG_FORMAT, f"{error.message}; {error.hint}")
        elif isinstance(error, PermissionError):
            self.attempts.ended(call.item, Fate.FORBIDDEN, first_line(error))
        elif isinstance(error, UserError):
            raise error
        else:
            fate = Fate.WORKER_LOST if slot.leaving else Fate.ERROR
            self.attempts.ended(call.item, fate, f"{type(error).__name__}: {first_line(error)}")

    def _died(self, slot: Slot, error: BaseException) -> None:
        """An actor is gone: all of its units rerun, none of the others notice."""
        lost = slot.leaving or is_node_loss(error, slot.node_id)
        calls = list(slot.calls.values())
        self._drop(slot)
        self.restarts += 1
        for call in calls:
            if call.item.unit.unit_id in slot.stuck and not slot.leaving:
                self.attempts.ended(call.item, Fate.STOOD_STILL)
            elif lost or slot.stuck:  # it only shared the actor with one that stood still
                self.attempts.ended(call.item, Fate.WORKER_LOST)
            else:
                self.attempts.ended(call.item, Fate.WORKER_DIED, first_line(error))
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
