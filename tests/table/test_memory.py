"""What the driver has freed is the system's again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import memory_bytes
from clipmill.jobs.table import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these functions")

# Bytes that glibc holds outside its arenas while a block of 4 MB is there, after one like it was freed.
MAPPED = """
import ctypes

from clipmill.jobs.table import memory

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
CALL
before = libc.mallinfo2().hblkhd
libc.free(libc.malloc(4_000_000))
kept = libc.malloc(4_000_000)
print(libc.mallinfo2().hblkhd - before)
"""


@pytest.mark.parametrize("little", [False, True])
def test_a_large_block_never_stays_in_an_arena(little: bool) -> None:
    """Without it glibc moves the second block into an arena: it has learnt from the first."""
    program = MAPPED.replace("CALL", "memory.use_little()" if little else "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(done.stdout) >= 4_000_000) == little


def test_freed_memory_goes_back_to_the_system() -> None:
    held = [bytes(2_000) for _ in range(60_000)]  # large enough for malloc, too small for pages of their own
    full = memory_bytes("VmRSS")
    del held[:-1]  # the last one keeps the heap from shrinking by itself
    before = memory_bytes("VmRSS")
    memory.give_back()
    assert memory_bytes("VmRSS") < full - 80_000_000
    assert before > memory_bytes("VmRSS") + 50_000_000


def test_memory_that_is_free_is_the_least_of_machine_and_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    monkeypatch.setattr(memory, "_SYSTEM", tmp_path)
    assert memory.available_bytes() is None, "where nothing says it, as on macOS"
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert memory.available_bytes() == 4_096_000
    write("proc/self/cgroup", "9:cpu:/\n4:memory:/a/b\n0::/c\n")
    assert memory.available_bytes() == 4_096_000
    group = "sys/fs/cgroup/memory/a/memory"  # around its own
    write(f"{group}.limit_in_bytes", "3000000")
    write(f"{group}.usage_in_bytes", "1000000")
    write(f"{group}.stat", "total_inactive_file 300000\ntotal_active_file 200000\n")
    assert memory.available_bytes() == 2_500_000
    write("sys/fs/cgroup/memory.max", "max")  # of the second kind, its own as the root
    write("sys/fs/cgroup/memory.current", "1000000")
    write("sys/fs/cgroup/memory.stat", "inactive_file 1\nactive_file 2\n")
    assert memory.available_bytes() == 2_500_000
    write("sys/fs/cgroup/memory.max", "1000")
    assert memory.available_bytes() == 0
