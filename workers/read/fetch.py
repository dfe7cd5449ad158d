"""Many small reads at once, results in the order asked, bytes in flight bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipmill.schemas.config import Limits

T = TypeVar("T")
R = TypeVar("R")

THREADS = 32  # two units at a time: 64, as many as a store's client has connections
_SHARE = 16  # of limits.worker_memory: several units are in flight, each with other buffers too


def memory_share(limits: Limits) -> int:
    """Bytes that one unit's reader may hold beyond the sample in hand: 1/16 of limits.worker_memory."""
    return max(1, limits.worker_memory // _SHARE)


def ordered_map(
    items: Iterable[T], fetch: Callable[[T], R], *, weigh: Callable[[T], int], max_bytes: int, threads: int = THREADS
) -> Iterator[R]:
    """`fetch` of every item, `threads` at a time, in order. `weigh` says how many bytes a result may hold; results
    waiting and under way stay within `max_bytes`, except that one item is always allowed.

    What `fetch` raises is raised in its place, and the rest is abandoned.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    waiting: deque[tuple[Future[R], int]] = deque()
    held = 0
    try:
        for item in items:
            weight = weigh(item)
            while waiting and (held + weight > max_bytes or len(waiting) >= 2 * threads):
                future, size = waiting.popleft()
                result = future.result()
                held -= size
                yield result
            waiting.append((pool.submit(fetch, item), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
