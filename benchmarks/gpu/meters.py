"""What the device can do by itself, and how busy it is. Operations: two per multiply-add."""

import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.setting import Setting

_LOOK_EVERY_S = 0.4


def wait_for(device: str) -> None:
    """Until everything that was put into its queue is computed."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds(device: str, work: Callable[[], Any], *, at_least_s: float) -> float:
    """Of one call, the mean of as many as fill `at_least_s`; warmed up by two."""
    for _ in range(2):
        work()
    wait_for(device)
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < at_least_s:
        for _ in range(4):  # so that a GPU's queue is never empty
            work()
        calls += 4
        wait_for(device)
    return (time.perf_counter() - start) / calls


def matmul_flops_per_s(device: str, size: int, kind: str = "bfloat16", *, at_least_s: float = 0.5) -> float:
    """Of square matrices; float8: torch's scaled product with one scale for each matrix, into bf16."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    if kind.startswith("float8"):
        one = torch.ones((), device=device)
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()  # column by column, as it is wanted
        took_s = seconds(
            device,
            lambda: torch._scaled_mm(a8, b8, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
            at_least_s=at_least_s,
        )
    else:
        a, b = (x.to(getattr(torch, kind)) for x in (a, b))
        took_s = seconds(device, lambda: torch.matmul(a, b), at_least_s=at_least_s)
    return 2.0 * size**3 / took_s


def bytes_per_s(device: str, num_bytes: int) -> dict[str, float]:
    """Copies on the device (read and written bytes), and from pinned host memory to it."""
    import torch

    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    host = torch.empty(num_bytes // 4, dtype=torch.uint8, pin_memory=device != "cpu")
    on_device_s = seconds(device, lambda: target.copy_(source), at_least_s=0.2)
    to_device_s = seconds(device, lambda: target[: len(host)].copy_(host, non_blocking=True), at_least_s=0.2)
    return {
        "copy_on_device_gb_per_s": round(2 * num_bytes / on_device_s / 1e9, 1),
        "copy_to_device_gb_per_s": round(len(host) / to_device_s / 1e9, 1),
    }


class BusyGpu:
    """The driver's utilisation while the block runs, as nvidia-smi tells it: the share of time in which some kernel
    ran; None where it cannot be had."""

    def __init__(self, device: str) -> None:
        self.readings: list[float] = []
        self._number = device.partition(":")[2] or "0"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._wanted = device != "cpu" and shutil.which("nvidia-smi") is not None

    def __enter__(self) -> "BusyGpu":
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._wanted:
            self._thread.join()

    def _read(self) -> None:
        """Asked anew each time: what a program that goes on says comes in lumps, where it does not flush."""
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", self._number]
        while not self._ended.wait(_LOOK_EVERY_S):
            said = subprocess.run(command, capture_output=True, text=True).stdout.strip()
            if said.isdigit():
                self.readings.append(float(said))

    @property
    def percent(self) -> float | None:
        """Without the first second, in which it tells of what was before."""
        steady = self.readings[2:] or self.readings
        return round(sum(steady) / len(steady), 1) if steady else None


def device_name(device: str) -> str:
    import torch

    return "cpu" if device == "cpu" else str(torch.cuda.get_device_name(device))


def memory_mb(device: str) -> dict[str, int | None]:
    """The most that this process held: on the device, as torch counts, and beside it."""
    import torch

    peak = None if device == "cpu" else torch.cuda.max_memory_allocated(device) // 2**20
    return {"peak_device_mb": peak, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def peaks(setting: Setting, at_least_s: float) -> dict[str, Any]:
    """TFLOP/s by kind of number; what the device does not multiply says why."""
    found: dict[str, Any] = {}
    for kind in ("bfloat16", "float16", "float8_e4m3fn"):
        try:
            rate = matmul_flops_per_s(setting.device, setting.sizes.matmul, kind, at_least_s=at_least_s)
            found[kind] = round(rate / 1e12, 4)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            found[kind] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return found
