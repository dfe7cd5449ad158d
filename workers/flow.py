"""Bounded hand-over between threads: reading ahead and decoding ahead, in order, never more than a budget.

Nothing here knows what an image is; the unit loop says how heavy an item is and what is done with it.
"""

import heapq
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END = object()


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread, holding at most `max_items` items and about `max_bytes` of weight.

    An item heavier than the whole budget passes alone. Closing stops the thread at its next item. Errors of the
    iterator are raised at the consumer. `busy_s` is the time spent inside the iterator.
    """

    def __init__(self, items: Iterable[T], weigh: Callable[[T], int], *, max_items: int, max_bytes: int) -> None:
        self._queue: queue.Queue[object] = queue.Queue()
        self._room = threading.Condition()
        self._held_bytes = 0
        self._held_items = 0
        self._max_items, self._max_bytes = max_items, max_bytes
        self._weigh = weigh
        self._closed = False
        self._error: BaseException | None = None
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._run, args=(iter(items),), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[T]) -> None:
        try:
            while not self._closed:
                start = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    break
                finally:
                    self.busy_s += time.perf_counter() - start
                self._wait_for_room(self._weigh(item))
                self._queue.put(item)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, whatever it is
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            self._queue.put(_END)

    def _wait_for_room(self, weight: int) -> None:
        with self._room:
            while not self._closed and self._held_items and not self._fits(weight):
                self._room.wait()
            self._held_items += 1
            self._held_bytes += weight

    def _fits(self, weight: int) -> bool:
        return self._held_items < self._max_items and self._held_bytes + weight <= self._max_bytes

    def __iter__(self) -> Iterator[T]:
        while (item := self._queue.get()) is not _END:
            yield item  # type: ignore[misc]
            with self._room:
                self._held_items -= 1
                self._held_bytes -= self._weigh(item)  # type: ignore[arg-type]
                self._room.notify()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed = True
        with self._room:
            self._room.notify_all()
        self._thread.join()


ALONE_S = 15.0


class Turns:
    """A lock that goes to whoever came first of all, not to whoever waited longest.

    Units that took turns evenly would end together, and the model would wait while all of them write their rows and
    the next ones begin to read. In order of age, one ends while the next is already decoded.
    """

    def __init__(self, at_once: int = 1, *, one_first: bool = False) -> None:
        """`one_first`: one at a time until `all_at_once`, so that the first unit has the device for itself and ends
        before the others: somebody waits for its rows. Not longer than `ALONE_S`: a large unit takes hours, and units
        side by side get more done."""
        self.most = at_once
        self._alone_until_s = math.inf
        self.at_once = self._free = 1 if one_first else at_once
        self._changed = threading.Condition()
        self._waiting: list[int] = []
        self._ranks = count()

    def rank(self) -> int:
        """A place in the order, for one that begins now."""
        with self._changed:
            return next(self._ranks)

    def all_at_once(self) -> None:
        with self._changed:
            self._open()

    def _open(self) -> None:
        self._free += self.most - self.at_once
        self.at_once = self.most
        self._changed.notify_all()

    @contextmanager
    def turn(self, rank: int) -> Iterator[None]:
        with self._changed:
            if self.at_once < self.most and time.monotonic() > self._alone_until_s:
                self._open()
            self._alone_until_s = min(self._alone_until_s, time.monotonic() + ALONE_S)
            heapq.heappush(self._waiting, rank)
            while not self._free or self._waiting[0] != rank:
                self._changed.wait()
            heapq.heappop(self._waiting)
            self._free -= 1
            self._changed.notify_all()  # where more than one may go at once, the next may be free to go too
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


def map_ahead(pool: Executor | None, work: Callable[[T], R], items: Iterable[T], *, window: int) -> Iterator[R]:
    """`map` with at most `window` calls under way, results in order; without a pool, on the calling thread."""
    if pool is None:
        yield from map(work, items)
        return
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
