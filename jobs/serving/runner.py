"""Table work in threads, bounded in number and in time, so that no query can take the server down with it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from clipmill.jobs.querying.damaged import reading_table
from clipmill.jobs.querying.deadline import OutOfTime, deadline
from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import DamagedIndex, VersionGone

Result = TypeVar("Result")


class Busy(Exception):
    """More queries are waiting than `Settings.queue`, or every thread holds one that does not end."""


class TooSlow(Exception):
    """The query ran longer than `Settings.query_s`."""


class Runner:
    """`Settings.threads` queries at a time. One that is over its time ends at its next look at the clock. Until then
    its place is given to another thread while there are spare ones: as many again. `stuck` says when there are none.
    One that finds files gone is tried once more where `renew` says that there is something newer."""

    def __init__(self, settings: Settings, renew: Callable[[], bool] = lambda: False) -> None:
        self._settings, self._renew = settings, renew
        self._pool = ThreadPoolExecutor(2 * settings.threads, thread_name_prefix="query")
        self._places = asyncio.Semaphore(settings.threads)
        self._pending = 0
        self._overdue: dict[asyncio.Future[Any], bool] = {}  # queries over their time; whether the place was given on

    @property
    def overdue(self) -> int:
        """Queries that are over their time and did not end yet."""
        return len(self._overdue)

    @property
    def stuck(self) -> bool:
        """Whether no thread is left for another query: what holds them does not end."""
        return self.overdue >= 2 * self._settings.threads

    async def run(self, work: Callable[[], Result]) -> Result:
        """Raises Busy, TooSlow, and what `work` raises."""
        if self.stuck or self._pending >= self._settings.threads + self._settings.queue:
            raise Busy
        until = time.monotonic() + self._settings.query_s
        self._pending += 1
        try:
            async with asyncio.timeout(self._settings.query_s):
                await self._places.acquire()
            return await self._in_thread(work, until)
        except (TimeoutError, OutOfTime):
            raise TooSlow from None
        finally:
            self._pending -= 1

    async def _in_thread(self, work: Callable[[], Result], until: float) -> Result:
        def read() -> Result:
            with reading_table():
                return work()

        def bounded() -> Result:
            with deadline(until - time.monotonic()):
                try:
                    return read()
                except (VersionGone, DamagedIndex):  # the latter where its files went with those of the version
                    if not self._renew():
                        raise
                    return read()

        future = asyncio.get_running_loop().run_in_executor(self._pool, bounded)
        future.add_done_callback(self._done)
        try:
            # Shielded: a thread cannot be cancelled, and its place must stay taken until it is really free.
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await asyncio.shield(future)
        except TimeoutError:
            if not future.done():
                spare = self.overdue < self._settings.threads
                self._overdue[future] = spare
                if spare:
                    self._places.release()
            raise

    def _done(self, future: "asyncio.Future[Result]") -> None:
        if not self._overdue.pop(future, False):
            self._places.release()
        if not future.cancelled():
            future.exception()  # retrieved, so that a query that failed after its time is not reported as unhandled

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
