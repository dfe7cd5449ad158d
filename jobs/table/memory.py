"""How the driver's process treats memory that it is done with: a long run must not hold what its commits once needed.

glibc learns from the first large block that is freed that more such will come, keeps them in its arenas, and small
blocks that outlive them hold their pages. With 100,000 units the driver grew by 362 and 375 MB, while its arenas had
54 MB in use (by hand, 2026-11-27, AMD); so it grows by 254 (benchmarks/results/2026-11-27-scale-100000.json).
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from typing import Any

# Of malloc.h. Other C libraries have neither these functions nor the habit.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def use_little() -> None:
    """From now on blocks of a megabyte and more (manifests, buffers) go back to the system when they are freed."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """What has been freed goes back to the system: glibc would keep it."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def no_cycles() -> Iterator[None]:
    """Around the making of many objects that refer to none of each other: Python's collector, which looks for cycles
    among all of them every so often, would take a third of the time and find none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _of_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
