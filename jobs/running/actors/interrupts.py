"""What Ctrl-C, SIGTERM and SIGHUP (the terminal went) do to a command: at any moment, and while units are in flight."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.terminal.progress import Progress
from clipmill.jobs.terminal.signals import handled
from clipmill.schemas.text.words import counted


@contextmanager
def noting_interrupts() -> Iterator[Callable[[], None]]:
    """A Ctrl-C while Ray starts may be raised inside one of its callbacks and vanish there: note it, so that the
    yielded function can raise it again. Ray also takes SIGTERM for itself when it connects; that function takes it
    back."""
    noted = False

    def note(number: int, frame: object) -> None:
        nonlocal noted
        noted = True
        raise KeyboardInterrupt

    def check() -> None:
        if noted:
            raise KeyboardInterrupt
        for number in old:
            signal.signal(number, note)

    old = _take(note)
    try:
        yield check
    finally:
        _give_back(old)


@contextmanager
def draining_on_signals(dispatcher: Dispatcher, progress: Progress) -> Iterator[None]:
    """The first signal hands out nothing more and lets the units in flight end; the second stops."""

    def drain(number: int, frame: object) -> None:
        if dispatcher.draining:
            raise KeyboardInterrupt
        dispatcher.draining = True
        busy = dispatcher.attempts.in_flight
        progress.say(f"stopping after the {counted(busy, 'unit')} in flight; once more stops at once")

    old = _take(drain)
    try:
        yield
    finally:
        _give_back(old)


def _take(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Set it for every signal that ends a command; returns what was there. Nothing off the main thread: there the
    caller's signals stay as they are."""
    old: dict[int, Any] = {}
    try:
        for number in handled():
            old[number] = signal.signal(number, handler)
    except ValueError:
        pass
    return old


def _give_back(old: dict[int, Any]) -> None:
    for number, handler in old.items():
        signal.signal(number, handler)
