"""What to do with a unit after an attempt: pure bookkeeping, no Ray.

A unit has `max_attempts`. Preemption and the loss of a node are not attempts. Units that were in flight when their
worker died are suspects and rerun alone, so that the next death has one author; that one is gone through sample by
sample, and the sample it dies at is rejected inside the same unit.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from clipmill.schemas.unit.units import WorkUnit


class Fate(StrEnum):
    """Why an attempt ended without a receipt that counts."""

    WORKER_DIED = "the worker died"
    WORKER_LOST = "its node was lost or preempted"
    STOOD_STILL = "it stood still for limits.unit_deadline_s"
    ERROR = "an error"
    WRONG_FORMAT = "its source is not of the job's format"
    FORBIDDEN = "no permission to read it"
    SOURCE_CHANGED = "its source changed since the plan was made; run the command again"


@dataclass(slots=True)
class Item:
    """A unit on its way, with its history."""

    unit: WorkUnit
    attempt: int = 0  # of the one under way, from 1; every hand-out gets a new one, so a late receipt is recognised
    used: int = 0  # attempts that count against the limit
    alone: bool = False
    probe: bool = False  # go through it sample by sample before the next attempt
    skip: dict[int, str] = field(default_factory=dict)
    last_error: str = ""
    began_s: float = 0.0  # when it was handed out last, by the monotonic clock


@dataclass(slots=True)
class Failed:
    """A unit given up on; named in the summary."""

    unit: WorkUnit
    reason: str


class Attempts:
    """The queue of units to hand out, and the rules above. `used`: attempts of all units that counted against the
    limit; `lost`: those that ended with their node, and did not."""

    def __init__(self, units: tuple[WorkUnit, ...], max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.waiting: deque[Item] = deque(Item(unit) for unit in units)
        self.suspects: deque[Item] = deque()
        self.failed: list[Failed] = []
        self.in_flight = self.used = self.lost = 0

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.suspects and not self.in_flight

    def take(self, *, idle_worker: bool) -> Item | None:
        """The next unit for a worker. A suspect goes only to a worker that does nothing else."""
        if idle_worker and self.suspects:
            item = self.suspects.popleft()
        elif self.waiting:
            item = self.waiting.popleft()
        else:
            return None
        item.attempt += 1
        self.in_flight += 1
        return item

    def done(self, item: Item) -> None:
        self.in_flight -= 1

    def ended(self, item: Item, fate: Fate, detail: str = "") -> None:
        """An attempt brought nothing. Queue the unit again, or give it up."""
        self.in_flight -= 1
        item.last_error = detail or fate.value
        if fate == Fate.WORKER_LOST:
            self.lost += 1
            (self.suspects if item.alone else self.waiting).appendleft(item)
            return
        item.used += 1
        self.used += 1
        if fate in (Fate.SOURCE_CHANGED, Fate.WRONG_FORMAT, Fate.FORBIDDEN) or item.used >= self.max_attempts:
            self.failed.append(Failed(item.unit, item.last_error))
            return
        if fate == Fate.ERROR:
            (self.suspects if item.alone else self.waiting).append(item)
            return
        item.probe = item.alone  # it was alone and still died: a sample of it is to blame
        item.alone = True
        self.suspects.append(item)

    def found(self, item: Item, poison: tuple[int, str] | None) -> None:
        """A probe's answer: pass over that sample and probe on, until the probe gets through."""
        self.in_flight -= 1
        if poison is None:
            item.probe = False
        else:
            item.skip[poison[0]] = poison[1]
        self.suspects.appendleft(item)
