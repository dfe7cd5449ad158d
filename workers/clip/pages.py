"""The pages of a checkpoint that lies mapped in memory, and how they leave it.

A page of the file that was read counts as the worker's memory until it is unmapped, with the last tensor. Let go of, it
is read again where somebody still needs it, from the system's cache as a rule; what was written into it is lost, so
whoever lets go either has written nothing, or is done with the tensor.
"""

import contextlib
import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_PAGE = mmap.PAGESIZE


class FilePages:
    """Of the file in which these tensors lie, or some of them. Where the system does not tell what is mapped (that is,
    not on Linux), nothing is let go of."""

    def __init__(self, file: Path | None, tensors: Iterable[Tensor]) -> None:
        self._ranges = [] if file is None else list(_mapped(str(file.resolve())))
        # As long as one of them is there the file stays mapped where it is: no page of anything else is let go of.
        self._kept = [tensor.detach() for tensor in tensors if self._has(tensor)]
        if not self._kept:
            self._ranges = []

    def let_go(self, tensors: Iterable[Tensor] | None = None) -> None:
        """Of all its pages, or of those that lie wholly in these tensors."""
        if tensors is None:
            for start, stop in self._ranges:
                _drop(start, stop)
            return
        for tensor in tensors:
            if self._has(tensor):
                first, last = _place(tensor)
                _drop(-(-first // _PAGE) * _PAGE, last // _PAGE * _PAGE)

    def _has(self, tensor: Tensor) -> bool:
        first, last = _place(tensor)
        return tensor.is_contiguous() and any(start <= first and last <= stop for start, stop in self._ranges)


def _place(tensor: Tensor) -> tuple[int, int]:
    first = tensor.data_ptr()
    return first, first + tensor.numel() * tensor.element_size()


def _mapped(path: str) -> Iterable[tuple[int, int]]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            words = line.split(maxsplit=5)
            if len(words) == 6 and words[5] == path:
                start, _, stop = words[0].partition("-")
                yield int(start, 16), int(stop, 16)


def _drop(start: int, stop: int) -> None:
    if stop > start:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)
