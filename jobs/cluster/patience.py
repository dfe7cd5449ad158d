"""How long a run waits for room on its cluster, and what it says meanwhile."""

import time
from collections.abc import Callable

from clipmill.jobs.cluster.nodes import nodes
from clipmill.schemas.errors import NoWorkers
from clipmill.schemas.text.words import counted

SAY_EVERY_S = 30.0
_QUIET_S = 15.0  # a node that is up needs no longer to start a process


class Patience:
    """`look` while no worker has a place, `rest` when one has: the time counts from the last rest on.

    `need`: what one worker asks for, in words; `say` takes a line for a person.
    """

    def __init__(self, wait_s: float, need: str, say: Callable[[str], None]) -> None:
        self.wait_s, self.need, self.say = wait_s, need, say
        self._since_s = self._say_at_s = 0.0
        self.rest()

    def rest(self) -> None:
        self._since_s = time.monotonic()
        self._say_at_s = self._since_s + _QUIET_S

    def look(self) -> None:
        """Raises NoWorkers after `wait_s`."""
        now_s = time.monotonic()
        waited_s = now_s - self._since_s
        if waited_s >= self.wait_s:
            raise NoWorkers(
                f"the cluster gave no worker room within {self.wait_s:g} s: each needs {self.need} on one node; "
                f"{_up()}",
                "start nodes, or wait until they are free, and run the command again; workers.wait_s waits longer",
            )
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + SAY_EVERY_S
            self.say(
                f"waiting {waited_s:.0f} s, of at most {self.wait_s:g} (workers.wait_s), for {self.need} on one node; "
                f"{_up()}"
            )


def _up() -> str:
    found = nodes()
    gpus, cpus = sum(node.gpus for node in found), sum(node.cpus for node in found)
    up = f"{counted(len(found), 'node is', 'nodes are')} up"
    return f"{up}, with {cpus:g} CPUs and {gpus:g} GPUs in all"
