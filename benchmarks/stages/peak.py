"""The most that this machine's cores multiply, by precision: what the towers' rates are a share of.

The product of two square matrices by the operators that the towers use: torch.mm in fp32, oneDNN's packed linear layer
in bf16, its quantised one in int8 (uint8 with int8, the fast pair of x86). One core by its CPU time; all of them as a
worker uses them, one thread each side by side, by the clock, which a busy machine spoils.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SIDE = 2048
_TRIES = 5

Product = Callable[[], Any]


def peaks(cores: int, side: int = SIDE) -> dict[str, dict[str, float]]:
    """GOP/s of one core and of all, by precision; what torch has no operator for is left out."""
    found = {}
    for precision, make in (("fp32", _fp32), ("bf16", _bf16), ("int8", _int8)):
        try:
            # An operator that falls back to plain loops would keep the large product for minutes.
            at = side if _one_core(make, min(side, 256)) > 5 else min(side, 256)
            found[precision] = {
                "one_core_gops": round(_one_core(make, at), 1),
                "all_cores_gops": round(_all_cores(make, at, cores), 1),
            }
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
    return found


def _one_core(make: Callable[[int], Product], side: int) -> float:
    def one() -> float:
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            product = make(side)
            product()  # the first call makes the kernel
            seconds = []
            for _ in range(_TRIES):
                start = time.thread_time()
                product()
                seconds.append(time.thread_time() - start)
        return 2 * side**3 / min(seconds) / 1e9

    return _in_thread(one)


def _all_cores(make: Callable[[int], Product], side: int, cores: int) -> float:
    def repeated() -> None:
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(_TRIES):
                product()

    product = make(side)
    best_s = float("inf")
    with ThreadPoolExecutor(cores) as callers:
        for _ in range(_TRIES):
            start = time.perf_counter()
            for done in [callers.submit(repeated) for _ in range(cores)]:
                done.result()
            best_s = min(best_s, time.perf_counter() - start)
    return 2 * side**3 * _TRIES * cores / best_s / 1e9


def _in_thread(call: Callable[[], float]) -> float:
    """In a thread of its own, because torch keeps the number of threads for each caller."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _fp32(side: int) -> Product:
    import torch

    a, b = torch.randn(2, side, side)
    return lambda: torch.mm(a, b)


def _bf16(side: int) -> Product:
    import torch

    a, b = torch.randn(2, side, side).to(torch.bfloat16)
    packed = torch.ops.mkldnn._reorder_linear_weight(b, side)
    return lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")


def _int8(side: int) -> Product:
    import torch

    a = torch.randint(0, 256, (side, side), dtype=torch.uint8)
    b = torch.randint(-127, 128, (side, side), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(b, [side, side])
    scales, zeros = torch.full((side,), 0.01), torch.zeros(side, dtype=torch.int32)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        a, 0.01, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
