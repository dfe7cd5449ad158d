"""How long a query may take, for a server: whoever does the work asks now and then whether time is over.

Lance cannot be stopped inside a call, so what may take long is done in pieces, with a look at the clock between them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float | None] = ContextVar("until", default=None)  # of the monotonic clock; a thread has its own


class OutOfTime(Exception):
    """The query ran longer than it may; its thread is free again."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Work inside ends with OutOfTime at the first look at the clock after so many seconds."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def check() -> None:
    until = _until.get()
    if until is not None and time.monotonic() > until:
        raise OutOfTime


def is_set() -> bool:
    return _until.get() is not None
