"""Where the vectors at hand lie: a file in TMPDIR that nobody else sees and that goes with the process, or one of
several processes that serve the same table.

First the bytes of the sketch, which are mapped, and behind them the vectors as they are stored. Those are read: a page
that is mapped counts as this process's memory, and the kernel maps a lot around what is asked for.
"""

import ctypes
import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying.vectors import Ids, Places

# As `os.preadv`, but the interpreter's lock is kept: to take it again after each of some twenty reads of half a
# microsecond cost a server 7 % more CPU, and its slowest answers more yet (by hand, 2026-11-29, 32 clients).
_pread = ctypes.PyDLL(None).pread
_pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
_pread.restype = ctypes.c_ssize_t

_BLOCK = 8192  # rows
_NAME = "vectors"


class VectorFile:
    """Rows come in the table's order, the vectors stay in it, and the bytes may be put into another at the end."""

    def __init__(self, file: Any, rows: int, dim: int, order_N: npt.NDArray[Any] | None = None) -> None:
        """Of a file that is whole, or as long as it will be. `order_N`: what the bytes were put into."""
        self._dim, self._behind = dim, rows * dim
        self._end = self._bytes_at = 3 * rows * dim
        self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)
        self.order_N = order_N
        self.bytes_ND = self._map(0, rows)

    @classmethod
    def make(cls, rows: int, dim: int, *, arranged: bool, folder: Path | None = None) -> "VectorFile | None":
        """None where there is no room for it, or no such call (macOS). `folder`: of several processes."""
        try:
            with (folder / _NAME).open("x+b") if folder else tempfile.TemporaryFile(prefix="clipmill-vectors-") as file:
                # Now: where the disk is full only later, there would be half of it.
                os.posix_fallocate(file.fileno(), 0, (3 + arranged) * rows * dim)
                made = cls(file, rows, dim)
        except (OSError, AttributeError, ValueError):
            return None
        if not arranged:
            made._bytes_at = 0
        return made

    @classmethod
    def open(cls, folder: Path, rows: int, dim: int, order_N: npt.NDArray[Any] | None) -> "VectorFile":
        """What another process made there. Raises OSError."""
        with (folder / _NAME).open("rb") as file:
            return cls(file, rows, dim, order_N)

    def put(self, place: int, bytes_BD: npt.NDArray[np.int8], rows_BD: npt.NDArray[np.float16]) -> None:
        self._write(self._bytes_at + place * self._dim, bytes_BD.data)
        self._write(self._behind + 2 * place * self._dim, np.ascontiguousarray(rows_BD).data)

    def arrange(self, order_N: npt.NDArray[Any]) -> None:
        """The bytes, which were put apart, into that order."""
        apart_ND = self._map(self._bytes_at, len(order_N))
        for start in range(0, len(order_N), _BLOCK):
            self._write(start * self._dim, apart_ND[order_N[start : start + _BLOCK]].data)
        del apart_ND  # unmapped before its part of the file goes
        os.ftruncate(self._number, self._end)
        self.order_N = order_N

    def stored(self, places_B: Places, _: Ids) -> npt.NDArray[np.float16]:
        rows_BD = np.empty((len(places_B), self._dim), dtype=np.float16)
        if self.order_N is not None:
            places_B = self.order_N[places_B].astype(np.intp)
        to, size, number, behind = rows_BD.ctypes.data, 2 * self._dim, self._number, self._behind
        for row, place in enumerate(places_B.tolist()):
            if _pread(number, to + row * size, size, behind + place * size) != size:
                raise OSError("vectors at hand cannot be read from TMPDIR any more")
        return rows_BD

    def _map(self, at: int, rows: int) -> npt.NDArray[np.int8]:
        """Bytes (rows, D) from a place in the file."""
        size = rows * self._dim
        if not size:  # mapped would be all that follows
            return np.empty((rows, self._dim), dtype=np.int8)
        offset = at - at % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._number, size + at - offset, prot=mmap.PROT_READ, offset=offset)
        return np.frombuffer(mapped, dtype=np.int8, offset=at - offset).reshape(rows, self._dim)

    def _write(self, at: int, data: memoryview) -> None:
        left = data.cast("B")
        while left:
            done = os.pwrite(self._number, left, at)
            left, at = left[done:], at + done
