"""What a run shows of itself while it goes on: figures, an event for each unit's end, and spans. Reads, never decides.

The workers have no part in it: everything is in receipts and in the driver's own queues. A file that cannot be written
is said once, and the run goes on.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from clipmill.jobs.observing import textfile
from clipmill.jobs.observing.figures import Figures
from clipmill.jobs.observing.ray_exporter import RayExporter
from clipmill.jobs.observing.spans import spans
from clipmill.jobs.running.actors.attempts import Item
from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.running.actors.slots import Slot
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.summary import StageClock
from clipmill.jobs.terminal import lines
from clipmill.schemas.unit.receipts import Receipt

EVERY_S = 10.0
_WINDOW_S = 60.0  # of rates
_TICK_S = 0.5


class Counts(Protocol):
    """What readers see of a run."""

    units: int
    seen: int
    rows: int
    rejects: dict[str, int]
    source_bytes: int


class Commits(Protocol):
    """What makes it visible: the Collector of `embed`, or the Filler of `reembed`. `uncommitted_s`: when the receipt of
    each unit that is not committed came, by the monotonic clock, the oldest first; `commits_s`: how long each took."""

    @property
    def totals(self) -> Counts: ...
    @property
    def uncommitted_s(self) -> Mapping[str, float]: ...
    @property
    def commits_s(self) -> Sequence[float]: ...
    @property
    def conflicts(self) -> int: ...


class Meter:
    """Of one run; `tick` as often as one likes, `close` once. A run of several passes puts the dispatcher of each in
    place."""

    def __init__(
        self, context: RunContext, force: Workforce, collector: Commits, dispatcher: Dispatcher, clock: StageClock
    ) -> None:
        self.context, self.force = context, force
        self.collector, self.dispatcher, self.clock = collector, dispatcher, clock
        address = context.options.address
        self._exporter = RayExporter() if address and not address.startswith("ray://") else None
        self._spans = spans(context.progress.say)
        self._spans.begin("clipmill.run", {"clipmill.run": context.lease.run, "clipmill.table": context.table})
        self._due_s = 0.0
        self._at_s = time.monotonic()
        self._gpu_s = 0.0
        self._seen = 0
        self._window: deque[tuple[float, float, int, dict[str, float]]] = deque([(self._at_s, 0.0, 0, {})])
        self._told_commits = 0
        self._is_broken = False

    def ended(self, slot: Slot, item: Item, receipt: Receipt | None) -> None:
        """An attempt at a unit, with its receipt or without one; then `item` says why."""
        about = tell_attempt(slot, item, receipt)
        if receipt is not None:
            self._seen += receipt.seen
        if self._spans:
            attributes = {f"clipmill.{name}": value for name, value in about.items()}
            stages = {f"clipmill.seconds.{s}": v for s, v in receipt.seconds.items()} if receipt is not None else {}
            taken_s = time.monotonic() - item.began_s
            error = "" if receipt is not None else item.last_error
            self._spans.add("clipmill.unit", taken_s, {**attributes, **stages}, error)

    def tick(self, now_s: float) -> None:
        """The dispatcher's loop turns with every receipt; twice a second is enough for this."""
        if now_s - self._at_s >= _TICK_S:
            self._look(now_s)

    def _look(self, now_s: float) -> None:
        slots = [slot for slot in self.dispatcher.slots if slot.attached]
        self._gpu_s += (now_s - self._at_s) * len(slots) * self._gpus_each
        self._at_s = now_s
        self._tell_commits()
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self._tell(self.figures(now_s))

    def close(self, error: str = "") -> None:
        """The last reading, and the spans sent. `error`: what ended the run before its end."""
        self._look(time.monotonic())
        self._tell(self.figures(time.monotonic()))
        self._spans.end(error)

    @property
    def _gpus_each(self) -> float:
        force = self.force
        return force.shape.gpus if force.facts.device != "cpu" else 0.0

    def _tell_commits(self) -> None:
        done = self.collector.commits_s
        for seconds in done[self._told_commits :]:
            self._told_commits += 1
            lines.event(
                "committed", commit=self._told_commits, seconds=round(seconds, 3), rows=self.collector.totals.rows
            )
            self._spans.add("clipmill.commit", seconds, {"clipmill.commit": self._told_commits})

    def _tell(self, figures: Figures) -> None:
        if self._exporter is not None:
            self._exporter.tell(figures)
        path = self.context.options.metrics
        if path is not None and not self._is_broken:
            try:
                textfile.write(path, figures)
            except OSError as error:
                self._is_broken = True
                self.context.progress.say(f"{path} is not written any more: {error.strerror or error}")

    def figures(self, now_s: float) -> Figures:
        force, context, collector = self.force, self.context, self.collector
        totals, attempts = collector.totals, self.dispatcher.attempts
        waits_s = list(collector.uncommitted_s.values())  # the oldest first
        price = context.job.plan.price_per_gpu_hour
        rate, busy = self._rates(now_s)
        return Figures(
            table=context.table,
            run=context.lease.run,
            command=context.options.command,
            model=force.fingerprint.model,
            device=force.facts.device,
            at_s=time.time(),
            rows=totals.rows,
            samples=totals.seen,
            rejects=dict(totals.rejects),
            source_bytes=totals.source_bytes,
            units=totals.units,
            failed=len(attempts.failed),
            queue={
                "waiting": len(attempts.waiting) + len(attempts.suspects),
                "in_flight": attempts.in_flight,
                "uncommitted": len(waits_s),
            },
            images_per_s=rate,
            stage_s=dict(self.clock.busy_s),
            busy=busy,
            actors=sum(slot.attached for slot in self.dispatcher.slots),
            restarts=self.dispatcher.restarts,
            commits_s=tuple(collector.commits_s),
            conflicts=collector.conflicts,
            lag_s=max(0.0, now_s - waits_s[0]) if waits_s else 0.0,
            gpu_s=self._gpu_s,
            dollars=self._gpu_s / 3600 * price if price is not None else None,
        )

    def _rates(self, now_s: float) -> tuple[float, dict[str, float]]:
        """Samples a second and each stage's load over the last minute, or since the beginning. A load is of the time of
        the workers that were there, who come and go."""
        clock, all_worker_s = self.clock, self.dispatcher.worker_s
        begun_s, begun_worker_s, seen, busy_s = self._window[0]
        elapsed_s, worker_s = now_s - begun_s, all_worker_s - begun_worker_s
        self._window.append((now_s, all_worker_s, self._seen, dict(clock.busy_s)))
        while len(self._window) > 1 and self._window[1][0] <= now_s - _WINDOW_S:
            self._window.popleft()
        if elapsed_s <= 0:
            return 0.0, {}
        more = {stage: clock.busy_s.get(stage, 0.0) - busy_s.get(stage, 0.0) for stage in clock.lanes}
        busy = {s: min(1.0, more[s] / (n * worker_s)) for s, n in clock.lanes.items() if worker_s > 0}
        return (self._seen - seen) / elapsed_s, busy


def tell_attempt(slot: Slot, item: Item, receipt: Receipt | None) -> dict[str, Any]:
    """A line for programs on an attempt that ended, with its receipt or without one; returns what it is about."""
    unit, actor = item.unit, slot.actor._actor_id.hex()
    about: dict[str, Any] = {"unit": unit.unit_id, "actor": actor, "node": slot.node_id, "attempt": item.attempt}
    about["uri"] = unit.uri
    if receipt is None:
        lines.event("unit not done", level="warning", **about, reason=item.last_error)
    else:
        figures: dict[str, Any] = {"outcome": receipt.outcome, "seen": receipt.seen, "written": receipt.written}
        more: dict[str, Any] = {"rejected": receipt.rejected, "seconds": receipt.seconds}
        lines.event("unit done", **about, **figures, **more, peak_rss_bytes=receipt.peak_rss_bytes)
    return about


def idle(context: RunContext) -> None:
    """The figures of a run that had nothing to embed: whoever watches the file sees that it was there."""
    path = context.options.metrics
    if path is not None:
        figures: dict[str, Any] = {"table": context.table, "command": context.options.command, "at_s": time.time()}
        try:
            textfile.write(path, Figures(**figures, queue={"waiting": 0, "in_flight": 0, "uncommitted": 0}))
        except OSError as error:
            context.progress.say(f"{path} is not written: {error.strerror or error}")
