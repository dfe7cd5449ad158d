"""Where the matrix products of an index are computed: on a GPU where one is there and they are many, else by numpy.

Only here it is decided. There is no option: what CUDA_VISIBLE_DEVICES hides is not used, as by every program of CUDA.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from clipmill.jobs.indexing import on_device
from clipmill.jobs.indexing.kmeans import Floats, Held, Hold, OnCpu, Places
from clipmill.schemas.installed import has_gpu

T = TypeVar("T")

# Of a core: a million rows took 1.8e12 operations and 33 s (docs/search-speed.md).
_CORE_PER_S = 5e10
# Importing torch takes 4 s of CPU, by the clock several more at first (by hand, 2026-11-30), and a GPU has to begin as
# well. What all cores do meanwhile is not worth it.
_WORTH_S = 10.0


def worth_a_gpu(operations: float, cores: int) -> bool:
    """Whether these cores would take long enough for them, as far as can be told without trying."""
    return operations > cores * _CORE_PER_S * _WORTH_S


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class Products:
    """Of one build. `device`: what has computed, for people: cpu, a GPU's name, or that and then cpu. `gpu`: the one in
    use, as torch calls it; empty: none. `asked`: whether there is one was looked for already."""

    device: str = "cpu"
    gpu: str = ""
    asked: bool = False

    def hold(self, operations: float, tell: Callable[[str], None]) -> Hold:
        """What holds centroids for so many operations (two per multiply-add). A GPU that is in use already is used for
        few as well; one that failed, or had no room, is not asked again."""
        if not self.asked and worth_a_gpu(operations, _cores()) and has_gpu():
            self.asked = True
            try:
                self.gpu, self.device = on_device.open_gpu()
                tell(f"matrix products of the index are computed on {self.device}")
            except RuntimeError as error:
                tell(f"the GPU is not used: {_first(error)}")
        return (lambda centroids_PD: _Guarded(self, centroids_PD, tell)) if self.gpu else OnCpu

    def give_up(self, error: RuntimeError, tell: Callable[[str], None]) -> None:
        self.gpu, self.device = "", f"{self.device}, then cpu"
        with contextlib.suppress(RuntimeError):  # the one that it has just raised
            on_device.give_back()
        tell(f"the GPU is used no more, the CPU goes on: {_first(error)}")

    def give_back(self) -> None:
        """What is no longer needed of a GPU's memory."""
        if self.gpu:
            on_device.give_back()


class _Guarded:
    """On the GPU, and on the CPU from where that fails: whatever torch raises, numpy computes the block anew."""

    def __init__(self, products: Products, centroids_PD: Floats, tell: Callable[[str], None]) -> None:
        self._products, self._centroids_PD, self._tell = products, centroids_PD, tell
        self._there: Held | None = None

    def nearest(self, vectors_ND: Floats) -> Places:
        return self._ask(lambda held: held.nearest(vectors_ND))

    def sums(self, vectors_ND: Floats) -> tuple[Floats, Places]:
        return self._ask(lambda held: held.sums(vectors_ND))

    def _ask(self, question: Callable[[Held], T]) -> T:
        if self._products.gpu:
            try:
                self._there = self._there or on_device.OnDevice(self._centroids_PD, self._products.gpu)
                return question(self._there)
            except RuntimeError as error:  # no memory left, a driver that is too old, a card that fell off the bus
                self._there = None
                self._products.give_up(error, self._tell)
        return question(OnCpu(self._centroids_PD))


def _first(error: RuntimeError) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
