"""What Ctrl-C and SIGTERM do to a run: before it has units in flight, and while it has."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.dispatch import Dispatcher
from jobs.progress import Progress


@contextmanager
def noting_interrupts() -> Iterator[Callable[[], None]]:
    """A Ctrl-C while Ray starts may be raised inside one of its callbacks and vanish there: note it, so that the
    yielded function can raise it again."""
    noted = False

    def note(number: int, frame: object) -> None:
        nonlocal noted
        noted = True
        raise KeyboardInterrupt

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # not on the main thread: the caller's signals stay as they are
        yield check
        return
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, old)


@contextmanager
def draining_on_signals(dispatcher: Dispatcher, progress: Progress) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) hands out nothing more and lets the units in flight end; the second stops."""

    def drain(number: int, frame: object) -> None:
        if dispatcher.draining:
            raise KeyboardInterrupt
        dispatcher.draining = True
        busy = dispatcher.attempts.in_flight
        progress.say(f"stopping after the {busy} units in flight; once more stops at once")

    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, drain)
    except ValueError:
        pass  # not on the main thread: the caller's signals stay as they are
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
