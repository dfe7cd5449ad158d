"""Which nodes a cluster has, and which of them are leaving."""

from dataclasses import dataclass


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

    `ray.nodes()` of 2.60 does not say it; Ray's own libraries ask here. A driver at a ray:// address cannot, and
    learns of a node when it is gone.
    """
    from ray._private.state import state
    from ray.util.client import ray as client

    if client.is_connected():
        return {}
    return {node_id: deadline_ms / 1000 for node_id, deadline_ms in state.get_draining_nodes().items()}


def node_id() -> str:
    """Of the node that this runs on; for a task that asks a cluster for one."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
