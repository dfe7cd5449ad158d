"""How glibc treats large blocks while a model is loaded: each weight is one, and most are freed once converted.

glibc learns from the first large block that is freed to take the next ones from its heap, where small blocks that
outlive them hold their pages: 228 MB of a ViT-B-32 stayed so (docs/speed.md).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of malloc.h. Other C libraries have neither these functions nor the habit.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_APART_BYTES = 1 << 20
# What glibc comes to by itself, at most: activations are then taken from the heap, without asking the system each time.
_MOST_BYTES = 32 << 20


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Blocks of a megabyte and more go back to the system when they are freed; afterwards it is as glibc learns it."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _APART_BYTES)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES)
            mallopt(_M_TRIM_THRESHOLD, 2 * _MOST_BYTES)
        trim = _of_libc("malloc_trim")
        if trim is not None:
            trim(0)


def _of_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
