"""One object or why it cannot be had; and many small reads at once, in the order asked, bytes in flight bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reason
from clipmill.workers.store.errors import ATTEMPTS
from clipmill.workers.store.storage import BadName, TooManyBytes, get_bytes

T = TypeVar("T")
R = TypeVar("R")

THREADS = 32  # two units at a time: 64, as many as a store's client has connections
_HTTP_ATTEMPTS = 3
_SHARE = 16  # of limits.worker_memory: several units are in flight, each with other buffers too


def bytes_or_why(
    uri: str, storage: Storage, *, max_bytes: int, part: tuple[int, int] | None = None
) -> bytes | tuple[Reason, str]:
    """What `get_bytes` gives, or why there never will be one. A store or web host that does not answer, or is ill,
    raises: it may be back tomorrow, and a reject is not looked at again. Raises SourceChanged too."""
    attempts = _HTTP_ATTEMPTS if uri.startswith(("http://", "https://")) else ATTEMPTS
    try:
        return get_bytes(uri, storage, max_bytes=max_bytes, part=part, attempts=attempts)
    except TooManyBytes as error:
        return Reason.TOO_MANY_BYTES, error.message
    except FileNotFoundError as error:
        return Reason.NOT_FOUND, str(error)
    except PermissionError as error:
        return Reason.FORBIDDEN, str(error)
    except BadName as error:
        return Reason.BAD_URI, error.message


def memory_share(limits: Limits) -> int:
    """Bytes that one unit's reader may hold beyond the sample in hand: 1/16 of limits.worker_memory."""
    return max(1, limits.worker_memory // _SHARE)


def ordered_map(
    items: Iterable[T],
    fetch: Callable[[T], R],
    *,
    weigh: Callable[[T], int] = lambda item: 0,
    max_bytes: int = 0,
    threads: int = THREADS,
) -> Iterator[R]:
    """`fetch` of every item, `threads` at a time, in order. `weigh` says how many bytes a result may hold; results
    waiting and under way stay within `max_bytes`, except that one item is always allowed. Left out where results are
    answers that weigh nothing.

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
