"""How many images a device takes best at a time, found by trying."""

import time
from collections.abc import Callable

from clipmill.workers.engine import OutOfMemory

CPU_SIZES = (8, 16, 32, 64)
GPU_SIZES = (64, 128, 256, 512, 1024)
_BUDGET_S = 2.0
_WORTH_IT = 1.05  # a larger batch holds more memory and ends later, so it has to bring this much more


def best_batch_size(
    encode: Callable[[int], None],
    sizes: tuple[int, ...],
    *,
    budget_s: float = _BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> int | None:
    """The smallest of the ascending `sizes` that no larger one beats by 5 %; None where nothing was found out: not even
    the first has room, or the next would pass the budget (a slow model, or a machine that is busy with other things).

    Each is encoded once to warm up and once by the clock, until memory does not suffice or two sizes in a row brought
    nothing.
    """
    start = clock()
    best: int | None = None
    best_rate, in_vain = 0.0, 0
    for size in sizes:
        try:
            encode(size)
            begun = clock()
            encode(size)
        except OutOfMemory:
            break
        took_s = max(clock() - begun, 1e-9)
        if size / took_s > best_rate * _WORTH_IT:
            best, best_rate, in_vain = size, size / took_s, 0
        else:
            in_vain += 1
        larger_s = 2 * 2 * took_s  # twice the size, twice
        if in_vain == 2:
            break
        if size != sizes[-1] and clock() - start + larger_s > budget_s:
            return None
    return best
