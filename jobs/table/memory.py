"""How a process treats memory: what there is of it, and what it is done with. A long run must not hold what its commits
once needed, a server what its first reads did.

glibc learns from the first large block that is freed that more such will come, keeps them in its arenas, and small
blocks that outlive them hold their pages. With 100,000 units the driver grew by 362 and 375 MB, while its arenas had
54 MB in use (by hand, 2026-11-27, AMD); so it grows by 254 (benchmarks/results/2026-11-27-scale-100000.json).
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of malloc.h. Other C libraries have neither these functions nor the habit.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 1 << 20


_SYSTEM = Path("/")  # whose files say how much there is


def available_bytes() -> int | None:
    """What this process may still take, of the machine and of the container it is in; None where nothing says it."""
    found = []
    with contextlib.suppress(OSError, LookupError, ValueError):
        meminfo = _numbers(_SYSTEM / "proc/meminfo")
        found.append(1024 * meminfo["MemAvailable:"])
    with contextlib.suppress(OSError, ValueError):
        for line in (_SYSTEM / "proc/self/cgroup").read_text().splitlines():
            found += _left(*line.split(":", 2)[1:])
    return max(0, min(found)) if found else None


def _left(kinds: str, path: str) -> Iterator[int]:
    """Of a control group and those around it, of the second kind (no `kinds`) or the first. What files take in the
    system's cache is given back when it is wanted. Inside a container its group is the root, whatever it is called."""
    if kinds not in ("", "memory"):
        return
    root = _SYSTEM / "sys/fs/cgroup" / kinds
    own = root / path.lstrip("/")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
    for group in {root, own, *own.parents}:
        with contextlib.suppress(OSError, LookupError, ValueError):
            limit, used = (int((group / name).read_text()) for name in names)
            files = _numbers(group / "memory.stat")
            prefix = "total_" if kinds else ""
            yield limit - used + files[f"{prefix}inactive_file"] + files[f"{prefix}active_file"]


def _numbers(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1}


def use_little() -> None:
    """From now on blocks of a megabyte and more (manifests, buffers) go back to the system when they are freed."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def few_arenas(cores: int) -> None:
    """Before there are threads: glibc would make eight arenas for each core, each with what nobody else can use. A
    server of a million rows took 65 MB more with sixteen than with two (by hand, 2026-11-29)."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(2, cores))


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
