"""An actor at work, as the dispatcher knows it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.running.actors.attempts import Item
from clipmill.jobs.running.actors.watch import Watch
from clipmill.schemas.unit.tasks import UnitProgress


@dataclass(slots=True)
class Call:
    """A unit that an actor is working on."""

    item: Item
    watch: Watch
    is_probe: bool


@dataclass(slots=True, eq=False)
class Slot:
    """One actor. `placed` answers with its node's id once it has room on one, `ready` when it has prepared itself;
    until then it gets no unit. `leaving`: its node is drained, and it gets none any more."""

    actor: Any
    ready: Any
    placed: Any = None
    node_id: str = ""
    attached: bool = False
    leaving: bool = False
    calls: dict[Any, Call] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)  # ids of units that stood still, for which we killed the actor

    @property
    def open(self) -> Iterable[Any]:
        """What it owes an answer to."""
        if self.attached and self.placed is None:
            return self.calls  # no list of it: there may be a thousand such actors, asked with every receipt
        first = [] if self.attached else [self.ready]
        return [*self.calls, *first, *([] if self.placed is None else [self.placed])]

    @property
    def is_reserved(self) -> bool:
        """For a suspect, which shares its actor with nobody."""
        return any(call.item.alone for call in self.calls.values())


def progress(question: Any) -> UnitProgress | None:
    """What an actor said to `Watch`'s question, None as long as it has not."""
    import ray

    ready, _ = ray.wait([question], timeout=0)
    if not ready:
        return None
    try:
        answer: UnitProgress = ray.get(question)
    except ray.exceptions.RayError:
        return UnitProgress(waits=True)  # the actor is gone, which its units' own calls will say, and why
    return answer
