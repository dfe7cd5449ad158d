"""Segments on the nodes of a Ray cluster. A node that is lost costs its segment, which Ray starts elsewhere."""

from collections.abc import Iterator, Sequence
from typing import Any

from clipmill.jobs.indexing.kmeans import Hold
from clipmill.jobs.indexing.segments import SegmentTask, build_segment


def on_nodes(tasks: Sequence[SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
    """(place, description) of each task as it finishes, spread over the nodes. Ray is connected already."""
    import ray

    # A segment uses every core it finds; few at a time on a node keep the node's memory to theirs.
    build: Any = ray.remote(num_cpus=_smallest(ray.nodes()), max_retries=3)(build_segment)
    running = {build.options(scheduling_strategy="SPREAD").remote(task): place for place, task in enumerate(tasks)}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        try:
            segment = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            # The node's own: Ray's of the same class has no errno, so that a full disk there would be a defect here.
            raise (error.cause if isinstance(error.cause, BaseException) else error) from None
        yield running.pop(done), segment


def _smallest(nodes: list[dict[str, Any]]) -> float:
    """CPUs of the smallest node that has any, so that every node can take a segment."""
    return min((n["Resources"]["CPU"] for n in nodes if n["Alive"] and n["Resources"].get("CPU")), default=1.0)


def count_nodes() -> int:
    import ray

    return sum(bool(n["Alive"] and n["Resources"].get("CPU")) for n in ray.nodes())
