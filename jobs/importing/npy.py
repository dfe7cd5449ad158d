"""Matrices in .npy files, a window of rows at a time. Nothing in them is ever unpickled.

A local file is mapped into memory window by window, so that what was read counts no longer; one in a store is read
straight on. N: rows of the file. B: rows of a window. D: dimension.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.units import SourceObject
from clipmill.workers.store.storage import open_stream
from clipmill.workers.store.uri import split_uri

AGAIN = "write it with numpy.save, a row of floats for each picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A file whose header was read: (N, D) of `dtype` from byte `offset` on, row after row."""

    item: SourceObject
    rows: int
    dim: int
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize


def open_matrix(item: SourceObject, storage: Storage) -> Matrix:
    """Reads the header alone. UserError where it is no matrix of floats, or the file is cut off."""
    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        try:
            shape, fortran, dtype = _header(stream)
        except (ValueError, EOFError) as error:
            raise UserError(f"{item.uri} is no .npy file of plain numbers: {str(error)[:100]}", AGAIN) from None
        offset = stream.tell()
    if dtype.hasobject or dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 2:
        raise UserError(f"{item.uri} holds {dtype} of shape {shape}, not one matrix of floats", AGAIN)
    if fortran and min(shape) > 1:
        raise UserError(f"{item.uri} is stored column by column", "np.save(file, np.ascontiguousarray(vectors))")
    found = Matrix(item=item, rows=shape[0], dim=shape[1], dtype=dtype, offset=offset)
    if item.size_bytes != offset + found.rows * found.row_bytes:
        raise UserError(
            f"{item.uri} has {item.size_bytes:,} bytes, its header promises {offset + found.rows * found.row_bytes:,}",
            "it was cut off, or is being written: copy it again",
        )
    return found


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"its version is {version[0]}.{version[1]}")


class Windows:
    """Rows of a matrix as they are asked for, (B, D) of its dtype; made by `windows`."""

    def __init__(self, matrix: Matrix, stream: BinaryIO | None) -> None:
        self._matrix, self._stream = matrix, stream
        self._path = split_uri(matrix.item.uri)[1]

    def take(self, start: int, count: int) -> npt.NDArray[np.floating]:
        """`count` rows from row `start` on."""
        matrix = self._matrix
        at, shape = matrix.offset + start * matrix.row_bytes, (count, matrix.dim)
        if self._stream is None:
            return np.memmap(self._path, dtype=matrix.dtype, mode="r", offset=at, shape=shape)
        self._stream.seek(at)
        data = self._stream.read(count * matrix.row_bytes)
        return np.frombuffer(data, matrix.dtype).reshape(shape)


@contextlib.contextmanager
def windows(matrix: Matrix, storage: Storage) -> Iterator[Windows]:
    """Raises SourceChanged where the file is no longer the one whose header was read."""
    with open_stream(matrix.item.uri, storage, expected_etag=matrix.item.etag) as stream:
        local = split_uri(matrix.item.uri)[0] == "file"
        yield Windows(matrix, None if local else stream)
