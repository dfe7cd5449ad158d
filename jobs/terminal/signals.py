"""Which signals end a command as Ctrl-C does. Light: the command line reads it before anything else."""

import contextlib
import signal
from collections.abc import Iterator


def handled() -> list[int]:
    """SIGINT, SIGTERM and SIGHUP, without those that are ignored, as `nohup` asks for."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) != signal.SIG_IGN]


def end_as_ctrl_c_does() -> None:
    """From now on SIGTERM and SIGHUP raise KeyboardInterrupt too."""
    for number in handled():
        signal.signal(number, signal.default_int_handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Those that end a command come after the block. A mask would not do: the system gives a signal to any thread that
    takes it, and Python then interrupts the main one all the same. Nothing off the main thread, where none come."""
    came: list[int] = []
    old = {}
    with contextlib.suppress(ValueError):
        for number in handled():
            old[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
