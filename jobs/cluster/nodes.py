"""Which nodes a cluster has, and which of them are leaving."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A living node and what it offers."""

    node_id: str
    cpus: float
    gpus: float


def nodes() -> list[Node]:
    """Those that take new work: up, and not leaving."""
    import ray

    gone = leaving()
    return [
        Node(node_id=n["NodeID"], cpus=n["Resources"].get("CPU", 0.0), gpus=n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"] and n["NodeID"] not in gone
    ]


def leaving() -> dict[str, float]:
    """Node id -> when it goes, in seconds of the wall clock, 0 where nobody said: nodes that are drained (a spot
    machine's notice, an autoscaler, `ray drain-node`). They take no new actor, and what they have goes on.

    `ray.nodes()` of 2.60 does not say it; Ray's own libraries ask here. A driver at a ray:// address cannot: there it
    is what a task in the cluster found since the last call.
    """
    from ray.util.client import ray as client

    return _by_task.leaving() if client.is_connected() else _leaving()


def _leaving() -> dict[str, float]:
    from ray._private.state import state

    return {node_id: deadline_ms / 1000 for node_id, deadline_ms in state.get_draining_nodes().items()}


class ByTask:
    """Asks `question` in the cluster and never waits: the driver hands out units meanwhile. What is not answered,
    because its node went or the connection did, is asked anew."""

    def __init__(self, question: Callable[[], dict[str, float]]) -> None:
        self.question = question
        self._task: Any = None
        self._asked: Any = None
        self._known: dict[str, float] = {}

    def leaving(self) -> dict[str, float]:
        import ray

        try:
            if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
                self._known, self._asked = ray.get(self._asked), None
            if self._asked is None:
                self._task = self._task or ray.remote(num_cpus=0)(self.question)
                self._asked = self._task.remote()
        except (ray.exceptions.RayError, ConnectionError):
            self._task = self._asked = None
        return self._known


_by_task = ByTask(_leaving)


def node_id() -> str:
    """Of the node that this runs on; for a task that asks a cluster for one."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
