"""A unit may take as long as it needs, as long as it gets on."""

from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.running.actors.watch import ANSWER_S, Watch
from clipmill.schemas.unit.tasks import UnitProgress
from clipmill.workers.actor import EmbedWorker

ALLOWED_S = 100.0


class Worker:
    """What an actor would answer; None: nothing."""

    def __init__(self, answer: UnitProgress | None) -> None:
        self.answer, self.asked = answer, 0

    def watch(self) -> Watch:
        return Watch(ALLOWED_S, 0.0, self.ask, lambda question: self.answer)

    def ask(self) -> int:
        self.asked += 1
        return self.asked


def test_nobody_is_asked_before_the_time_is_over():
    worker = Worker(UnitProgress())
    watch = worker.watch()
    assert not any(watch.is_stuck(float(s)) for s in range(100))
    assert worker.asked == 0


def test_a_unit_without_a_step_is_stuck():
    worker = Worker(UnitProgress(steps=0))
    assert worker.watch().is_stuck(ALLOWED_S)


def test_an_actor_that_does_not_answer_is_stuck():
    watch = Worker(None).watch()
    assert not watch.is_stuck(ALLOWED_S)
    assert not watch.is_stuck(ALLOWED_S + ANSWER_S - 1)
    assert watch.is_stuck(ALLOWED_S + ANSWER_S)


def test_a_probe_has_its_time_and_no_more():
    watch = Watch(ALLOWED_S, 0.0)
    assert not watch.is_stuck(ALLOWED_S - 1)
    assert watch.is_stuck(ALLOWED_S)


def test_waiting_for_the_model_is_not_standing_still():
    worker = Worker(UnitProgress(steps=5, waits=True))
    watch = worker.watch()
    assert not any(watch.is_stuck(n * ALLOWED_S) for n in range(1, 50))
    worker.answer = UnitProgress(steps=5)
    assert watch.is_stuck(50 * ALLOWED_S), "it has the model and does nothing"


@given(last_step_s=st.floats(0, 5000), every_s=st.floats(0.5, 90))
def test_it_is_found_between_one_and_two_deadlines_after_its_last_step(last_step_s: float, every_s: float) -> None:
    """A step every 90 seconds or less is getting on; after the last one it is a matter of time."""
    worker = Worker(None)
    watch = worker.watch()
    now_s = 0.0
    while True:
        now_s += 0.5
        worker.answer = UnitProgress(steps=int(min(now_s, last_step_s) / every_s))
        if watch.is_stuck(now_s):
            break
    last = int(last_step_s / every_s) * every_s  # when the last step was made
    assert ALLOWED_S - 1 <= now_s - last <= 2 * ALLOWED_S + every_s + 1


def test_a_unit_that_has_just_ended_is_not_stuck():
    """Its receipt may still be on its way when the driver asks."""
    watch = Worker(EmbedWorker().progress("u1")).watch()
    assert not watch.is_stuck(ALLOWED_S)
