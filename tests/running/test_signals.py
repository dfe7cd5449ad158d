"""Signals that end a command wait where they would do harm, whichever thread the system gives them to."""

import os
import signal
import threading

import pytest

from clipmill.jobs.terminal.signals import signals_wait
from tests.conftest import heeding


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_comes_after_the_block(number: signal.Signals) -> None:
    done: list[str] = []
    resting = threading.Event()
    thread = threading.Thread(target=resting.wait)  # a thread that takes signals too
    thread.start()
    with heeding(number):
        before = signal.signal(number, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt), signals_wait():
                os.kill(os.getpid(), number)
                done += [str(step) for step in range(100)]
        finally:
            signal.signal(number, before)
            resting.set()
            thread.join()
    assert len(done) == 100


def test_without_a_signal_and_off_the_main_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_wait():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with signals_wait():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []
