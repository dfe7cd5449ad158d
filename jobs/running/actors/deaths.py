"""What an actor's end says of whose fault it was."""


def cause(error: BaseException) -> BaseException:
    """What the actor's code raised, from Ray's error around it."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _blames_node(error: BaseException) -> bool:
    """Whether Ray says that the node went, and the actor only with it."""
    import ray

    if getattr(error, "preempted", False) or isinstance(error, ray.exceptions.NodeDiedError):
        return True
    text = str(error)
    return "node" in text and ("died" in text or "dead" in text or "preempt" in text) and "worker process" not in text


def is_node_loss(error: BaseException, node_id: str = "") -> bool:
    """Preempted, or the node is gone: not the unit's fault. The node table may lag behind the actor's death, and an
    actor that Ray only cannot reach, after the time it has to learn of a death, was not ended by what it did.

    `node_id`: empty where it is not known, as of an actor that had no place yet.
    """
    import ray

    if _blames_node(error) or isinstance(error, ray.exceptions.ActorUnavailableError):
        return True
    return bool(node_id) and not any(n["Alive"] and n["NodeID"] == node_id for n in ray.nodes())
