"""What a run shows of itself: the arithmetic, and that it costs the driver nothing that matters. No Ray."""

import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace as Part
from typing import Any

import pytest

from clipmill.jobs.observing import textfile
from clipmill.jobs.running import meter as module
from clipmill.jobs.running.collect import Totals
from clipmill.jobs.running.meter import Meter
from clipmill.jobs.running.summary import StageClock
from clipmill.schemas.unit.receipts import Outcome, Receipt


def slot(attached: bool = True) -> Any:
    return Part(attached=attached, actor=Part(_actor_id=b"a"), node_id="n")


def made(*, actors: int = 2, gpus: float = 1.0, device: str = "cuda", price: float | None = 3.6) -> Any:
    """A meter over parts that hold still."""
    attempts = Part(waiting=deque(range(100_000)), suspects=deque([1]), in_flight=3, failed=[])
    dispatcher = Part(
        slots=[slot() for _ in range(actors)] + [slot(False)], attempts=attempts, restarts=1, worker_s=0.0
    )
    totals = Totals(rows=5, seen=6, rejects={"corrupt": 1})
    collector = Part(totals=totals, commits_s=[0.5], conflicts=2, uncommitted_s={})
    force = Part(shape=Part(gpus=gpus), facts=Part(device=device), fingerprint=Part(model="m"))
    context = Part(
        options=Part(address=None, metrics=None, command="embed"),
        lease=Part(run="r"),
        table="t",
        job=Part(plan=Part(price_per_gpu_hour=price)),
        progress=Part(say=print),
    )
    clock = StageClock(4, 3)
    return Meter(context, force, collector, dispatcher, clock)  # type: ignore[arg-type]


def receipt(seen: int) -> Receipt:
    return Receipt(unit_id="u", run="r", attempt=1, outcome=Outcome.DONE, seen=seen, written=seen)


ITEM: Any = Part(unit=Part(unit_id="u", uri="x"), attempt=1, began_s=0.0, last_error="")


def test_dollars_are_of_the_gpus_that_actors_held() -> None:
    meter = made()
    start_s = meter._at_s
    meter.tick(start_s + 100)
    meter.dispatcher.slots.pop(0)  # one actor goes
    meter.tick(start_s + 150)
    figures = meter.figures(start_s + 150)
    assert figures.gpu_s == pytest.approx(250)
    assert figures.dollars == pytest.approx(0.25)  # at 3.6 an hour
    for other, dollars in ((made(device="cpu"), 0.0), (made(price=None), None)):
        other.tick(other._at_s + 100)
        assert other.figures(0.0).gpu_s == pytest.approx(200 if dollars is None else 0)
        assert other.figures(0.0).dollars == dollars


def test_rates_are_of_the_last_minute() -> None:
    meter = made()
    start_s = meter._at_s
    for second in range(1, 301):
        meter.ended(slot(), ITEM, receipt(10 if second > 200 else 1000))
        meter.clock.busy_s["embed"] += 1.0  # of two that could be: one lane for each actor
        meter.dispatcher.worker_s += 2.0
        figures = meter.figures(start_s + second)
    assert figures.images_per_s == pytest.approx(10, rel=0.05)
    assert figures.busy["embed"] == pytest.approx(0.5, rel=0.05)
    assert len(meter._window) < 70, "no more is kept than the window"


def test_the_queue_and_what_waits_for_a_commit() -> None:
    meter = made()
    now_s = time.monotonic()
    assert meter.figures(now_s).lag_s == 0
    meter.collector.uncommitted_s = {"u": now_s - 7, "v": now_s - 2, "w": now_s}
    figures = meter.figures(now_s)
    assert figures.queue == {"waiting": 100_001, "in_flight": 3, "uncommitted": 3}
    assert figures.lag_s == pytest.approx(7)
    assert (figures.actors, figures.restarts, figures.conflicts, figures.commits_s) == (2, 1, 2, (0.5,))


def test_a_thousand_actors_cost_the_driver_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time, so that a busy machine changes nothing; measured: 0.02, 0.9 and 0.001 ms."""
    meter = made(actors=1000)
    monkeypatch.setattr(module, "EVERY_S", 1e9)
    meter.collector.commits_s = [1.0] * 2000

    def each_ms(work: Any, times: int) -> float:
        start = time.process_time()
        for turn in range(times):
            work(turn)
        return (time.process_time() - start) / times * 1000

    start_s = meter._at_s
    assert each_ms(lambda turn: meter.tick(start_s + turn), 200) < 1
    assert each_ms(lambda turn: textfile.write(tmp_path / "m.prom", meter.figures(start_s + 300 + turn)), 20) < 50
    assert each_ms(lambda turn: meter.ended(slot(), ITEM, receipt(1)), 2000) < 0.1
    looks = []
    monkeypatch.setattr(Meter, "_look", lambda self, now_s: looks.append(now_s))
    now_s = meter._at_s
    for turn in range(1000):  # a loop that turns a thousand times a second
        meter.tick(now_s + turn / 1000)
    assert all(look >= now_s + 0.5 for look in looks)
