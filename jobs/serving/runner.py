"""Table work in threads, bounded in number and in time, so that no query can take the server down with it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jobs.serving.settings import Settings

Result = TypeVar("Result")


class Busy(Exception):
    """More queries are waiting than `Settings.queue`."""


class TooSlow(Exception):
    """The query ran longer than `Settings.query_s`. Its thread goes on to the end; its place is taken until then."""


class Runner:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="query")
        self._pending = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Raises Busy, TooSlow, and what `work` raises."""
        if self._pending >= self._settings.threads + self._settings.queue:
            raise Busy
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._done)
        try:
            # Shielded: a thread cannot be cancelled, and its place must stay taken until it is really free.
            return await asyncio.wait_for(asyncio.shield(future), self._settings.query_s)
        except TimeoutError:
            raise TooSlow from None

    def _done(self, future: "asyncio.Future[Result]") -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # retrieved, so that a query that failed after its time is not reported as unhandled

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
