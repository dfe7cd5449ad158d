"""Which ids are taken: 16 bytes for each, whatever their length, so that ten million of them fit.

Only one process adds rows while it holds the lease, so what it saw is what there is. Two ids of one digest (128 bits)
are taken for one; among 10^9 ids the chance that there are such is 10^-21. B: ids at a time.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Digests = npt.NDArray[np.uint64]  # (B, 2)


def digests(names: pa.Array) -> Digests:
    whole = b"".join([xxhash.xxh3_128_digest(name) for name in names.cast(pa.binary()).to_pylist()])
    return np.frombuffer(whole, np.uint64).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Digests in order, as two columns: what is searched must lie in one piece."""

    first_N: npt.NDArray[np.uint64]
    second_N: npt.NDArray[np.uint64]

    def has(self, asked_B2: Digests) -> npt.NDArray[np.bool_]:
        """By the first halves; the second are compared where those are equal."""
        at_B = np.searchsorted(self.first_N, asked_B2[:, 0])
        found_B = np.zeros(len(asked_B2), np.bool_)
        near = self.first_N[np.minimum(at_B, len(self.first_N) - 1)] == asked_B2[:, 0]
        for row in np.flatnonzero(near).tolist():
            at = int(at_B[row])
            while at < len(self.first_N) and self.first_N[at] == asked_B2[row, 0]:
                found_B[row] |= self.second_N[at] == asked_B2[row, 1]
                at += 1
        return found_B

    def with_(self, other: "_Sorted") -> "_Sorted":
        first_N = np.concatenate([self.first_N, other.first_N])
        order = np.argsort(first_N, kind="stable")  # of two runs in order: one pass
        return _Sorted(first_N[order], np.concatenate([self.second_N, other.second_N])[order])


class TakenIds:
    """A set of ids that only grows: few sorted pieces, each less than half as long as the one before it."""

    def __init__(self) -> None:
        self._pieces: list[_Sorted] = []

    @staticmethod
    def of_table(rows: Any, leaving: Collection[str]) -> "TakenIds":
        """Of the rows that are there, but for those of the units that leave."""
        taken = TakenIds()
        for batch in rows.scanner(columns=["id", "unit_id"], batch_size=8192).to_batches():
            names = batch.column("id")
            if leaving:
                leaves = pc.is_in(batch.column("unit_id"), value_set=pa.array(sorted(leaving), pa.string()))
                names = names.filter(pc.invert(leaves))
            taken.add(names)
        return taken

    def add(self, names: pa.Array) -> npt.NDArray[np.bool_]:
        """Which of them were taken before, or stand earlier in `names`; from now on all are."""
        new_B2 = digests(names)
        order = np.argsort(new_B2[:, 0], kind="stable")
        if (new_B2[order[1:], 0] == new_B2[order[:-1], 0]).any():
            order = np.lexsort((new_B2[:, 1], new_B2[:, 0]))
        sorted_B2 = new_B2[order]
        is_again_B = np.zeros(len(names), np.bool_)
        # Both sorts are stable: of equal ids the first stays first.
        is_again_B[1:] = (sorted_B2[1:] == sorted_B2[:-1]).all(axis=1)
        for piece in self._pieces:
            is_again_B |= piece.has(sorted_B2)  # in order, which is several times as fast
        again_B = np.empty_like(is_again_B)
        again_B[order] = is_again_B
        if len(names):
            self._keep(_Sorted(sorted_B2[:, 0].copy(), sorted_B2[:, 1].copy()))
        return again_B

    def _keep(self, new: _Sorted) -> None:
        while self._pieces and len(self._pieces[-1].first_N) < 2 * len(new.first_N):
            new = self._pieces.pop().with_(new)
        self._pieces.append(new)
