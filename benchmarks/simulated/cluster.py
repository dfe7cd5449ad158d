"""Nodes that come, go and differ, and actors on them that take a fixed time for a unit."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from benchmarks.simulated.clock import Answers, Clock, Own, Ref
from clipmill.jobs.running.actors.slots import Slot
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.tasks import Task, UnitProgress

BOOT_S, LOAD_S = 120.0, 40.0  # until a node is up, and until an actor on it has its model
NOTICE_S, NOTICED_S = 30.0, 15.0  # of a spot node's end; until Ray knows of one that came without
SPEEDS = (1.0, 0.6, 0.35)  # of a node's actor: thirds of the nodes
UNEVEN = 0.15  # a unit takes so much more or less than what its actor's speed says


@dataclass(eq=False, slots=True)
class Node:
    node_id: str
    speed: float
    actor: "Actor | None" = None
    is_leaving: bool = False


class Method:
    """`actor.method.remote(…)`."""

    def __init__(self, remote: Callable[..., Ref]) -> None:
        self.remote = remote


@dataclass(eq=False)
class Actor:
    """One lane: a unit begins when the one before it has ended."""

    cluster: "Cluster"
    node: Node | None = None
    is_gone: bool = False
    free_at_s: float = 0.0
    open: dict[Ref, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.placed, self.ready = self.cluster.ref(), self.cluster.ref()
        self.open = {self.placed: None, self.ready: None}
        self.run_unit, self.progress, self.find_poison = Method(self._run), Method(self._progress), Method(self._never)

    def _run(self, task: Task) -> Ref:
        with Own(self.cluster.clock):
            assert not self.is_gone, "the dispatcher knew that it is gone"
            cluster, ref = self.cluster, self.cluster.ref()
            self.open[ref] = None
            if self.node is None:  # lost, and nobody knows yet
                return ref
            takes_s = cluster.unit_s / self.node.speed * cluster.chance.uniform(1 - UNEVEN, 1 + UNEVEN)
            self.free_at_s = max(self.free_at_s, cluster.clock.now_s) + takes_s
            cluster.clock.after(self.free_at_s - cluster.clock.now_s, lambda: self._done(ref, task, takes_s))
            return ref

    def _done(self, ref: Ref, task: Task, took_s: float) -> None:
        if ref in self.open and self.node is not None:
            del self.open[ref]
            self.cluster.useful_s += took_s
            ref.answer(self.cluster.work(task))

    def _progress(self, unit_id: str) -> Ref:
        """It gets on; one that is lost says nothing until Ray knows."""
        with Own(self.cluster.clock):
            clock, ref = self.cluster.clock, self.cluster.ref()
            self.open[ref] = None

            def answer() -> None:
                if ref in self.open and self.node is not None:
                    del self.open[ref]
                    ref.answer(UnitProgress(steps=int(clock.now_s)))

            clock.after(0.01, answer)
            return ref

    def _never(self, *_: Any) -> Ref:
        raise AssertionError("no unit kills its worker")

    def end(self, error: BaseException) -> None:
        """Whoever waits for it hears why."""
        self.is_gone = True
        left, self.open = list(self.open), {}
        for ref in left:
            ref.answer(error=error)


class Cluster:
    """An autoscaler that starts a node for every actor without a place, up to `most`, and nodes that are lost:
    `lost_an_hour` of them, every second one without a notice. `work` makes a unit's receipt."""

    def __init__(
        self, clock: Clock, *, most: int, unit_s: float, lost_an_hour: float, work: Callable[[Task], Receipt], seed: int
    ) -> None:
        self.clock, self.answers = clock, Answers(clock)
        self.most, self.unit_s, self.lost_an_hour, self.work = most, unit_s, lost_an_hour, work
        self.chance = random.Random(seed)
        self.nodes: dict[str, Node] = {}
        self.pending: deque[Actor] = deque()
        self.booting = 0
        self.lost = {"drained": 0, "killed": 0}
        self.useful_s = 0.0
        self._ids = count()

    def ref(self) -> Ref:
        return Ref(self.answers)

    def start_actor(self) -> Slot:
        with Own(self.clock):
            actor = Actor(self)
            self.pending.append(actor)
            self._settle()
            return Slot(actor=actor, ready=actor.ready, placed=actor.placed)

    def kill(self, actor: Actor, *, no_restart: bool = True) -> None:
        """`ray.kill`: its node may leave, or take the next."""
        with Own(self.clock):
            actor.is_gone, actor.open = True, {}
            if actor.node is not None and actor.node.actor is actor:
                actor.node.actor = None
                actor.node = None
            self._settle()

    def leaving(self) -> dict[str, float]:
        return {node.node_id: 0.0 for node in self.nodes.values() if node.is_leaving}

    def table(self) -> list[dict[str, Any]]:
        """`ray.nodes()`."""
        return [{"NodeID": node_id, "Alive": True, "Resources": {"GPU": 1.0}} for node_id in self.nodes]

    def _settle(self) -> None:
        """Actors onto free nodes; nodes for those that have none; nodes that nobody wants go."""
        self.pending = deque(actor for actor in self.pending if not actor.is_gone)
        for node in list(self.nodes.values()):
            if node.actor is None and not node.is_leaving:
                if self.pending:
                    self._place(self.pending.popleft(), node)
                else:
                    del self.nodes[node.node_id]
        while self.booting < len(self.pending) and len(self.nodes) + self.booting < self.most:
            self.booting += 1
            self.clock.after(BOOT_S, self._boot)

    def _boot(self) -> None:
        number = next(self._ids)
        node = Node(f"node{number}", SPEEDS[number % len(SPEEDS)])
        self.booting -= 1
        self.nodes[node.node_id] = node
        if self.lost_an_hour:
            lives_s = self.chance.expovariate(self.lost_an_hour) * 3600
            self.clock.after(lives_s, lambda: self._lose(node))
        self._settle()

    def _place(self, actor: Actor, node: Node) -> None:
        node.actor, actor.node = actor, node
        self._later(0.5, actor, actor.placed)
        self._later(LOAD_S, actor, actor.ready)

    def _later(self, seconds: float, actor: Actor, ref: Ref) -> None:
        def answer() -> None:
            if ref in actor.open and actor.node is not None:
                del actor.open[ref]
                ref.answer(actor.node.node_id)

        self.clock.after(seconds, answer)

    def _lose(self, node: Node) -> None:
        if node.node_id not in self.nodes:
            return
        if sum(self.lost.values()) % 2:
            self.lost["killed"] += 1
            self._gone(node)
        else:
            self.lost["drained"] += 1
            node.is_leaving = True
            self.clock.after(NOTICE_S, lambda: self._gone(node))

    def _gone(self, node: Node) -> None:
        import ray

        if self.nodes.pop(node.node_id, None) is None:
            return
        actor, node.actor = node.actor, None
        if actor is not None:
            actor.node = None  # nothing of it answers any more; why, Ray says later
            self.clock.after(NOTICED_S, lambda: actor.end(ray.exceptions.NodeDiedError("its node has died")))
        self._settle()
