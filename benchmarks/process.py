"""Runs a command in a process of its own and watches it: wall time, and the memory and CPU of its whole tree."""

import bisect
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """`peak_rss_bytes` adds up every process of the tree (pages they share count in each).

    `cpu_times`: what the tree had used by a moment, as (Unix time, CPU seconds), every half second. On a machine that
    does other things it says more than wall time.
    """

    started_at: float  # Unix time
    seconds: float
    peak_rss_bytes: int
    returncode: int
    stdout: str
    stderr: str
    cpu_times: tuple[tuple[float, float], ...]

    def cpu_s(self, begin: float, end: float) -> float:
        """CPU seconds between two moments (Unix time), to the nearest looks."""
        moments = [moment for moment, _ in self.cpu_times]
        if not moments:
            return 0.0
        first, last = (min(bisect.bisect_left(moments, t), len(moments) - 1) for t in (begin, end))
        return self.cpu_times[last][1] - self.cpu_times[first][1]


def watch(
    command: Sequence[str],
    *,
    env: dict[str, str],
    cwd: Path,
    timeout_s: float,
    also: Callable[[int], object] = lambda pid: None,
) -> Watched:
    """Runs until it ends. A process past `timeout_s` is killed with its children; its returncode is then negative.
    `also`: looks at the process each time that this does."""
    started_at, start = time.time(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)
    peak_bytes = 0
    cpu_times: list[tuple[float, float]] = []
    used_s: dict[int, float] = {}  # by process, kept when it has ended
    ended = threading.Event()

    def look() -> None:
        nonlocal peak_bytes
        top = psutil.Process(process.pid)
        while not ended.wait(LOOK_EVERY_S):
            peak_bytes = max(peak_bytes, _look(top, used_s))
            cpu_times.append((time.time(), sum(used_s.values())))
            also(process.pid)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill_tree(process.pid)
        stdout, stderr = process.communicate()
    finally:
        ended.set()
        watcher.join()
    return Watched(
        started_at=started_at,
        seconds=time.monotonic() - start,
        peak_rss_bytes=peak_bytes,
        returncode=process.returncode,
        stdout=stdout,
        stderr=stderr,
        cpu_times=tuple(cpu_times),
    )


def cpu_s(pid: int) -> float:
    """What a process and all below it have computed so far."""
    return float(sum(times.user + times.system for times in (one.cpu_times() for one in _tree(pid))))


def memory_mb(pid: int) -> dict[str, float]:
    """Of a process and all below it, in MB: `now` what is resident, of several with what they share counted once;
    `peak` what was, added up."""
    tree = _tree(pid)
    now = [one.memory_full_info().pss if len(tree) > 1 else one.memory_info().rss for one in tree]
    status = [Path(f"/proc/{one.pid}/status").read_text() for one in tree]
    return {"now": sum(now) / 1e6, "peak": sum(int(text.split("VmHWM:")[1].split()[0]) for text in status) * 1.024e-3}


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _look(top: psutil.Process, used_s: dict[int, float]) -> int:
    """Resident bytes of a process and all below it, and into `used_s` what each has computed so far."""
    total = 0
    try:
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_info().rss
            times = process.cpu_times()
            used_s[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def _kill_tree(pid: int) -> None:
    try:
        top = psutil.Process(pid)
        tree = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
