"""Which ids are taken: 16 bytes for each, whatever their length, so that ten million of them fit.

Only one process adds rows while it holds the lease, so what it saw is what there is. Two ids of one digest (128 bits)
are taken for one; among 10^9 ids the chance that there are such is 10^-21. B: ids at a time.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Digests = npt.NDArray[np.uint64]  # (B, 2)


def digests(names: Sequence[str]) -> Digests:
    whole = b"".join([xxhash.xxh3_128_digest(name.encode("utf-8", "surrogatepass")) for name in names])
    return np.frombuffer(whole, np.uint64).reshape(-1, 2)


class TakenIds:
    """A set of ids that only grows: few sorted arrays, each less than half as long as the one before it."""

    def __init__(self) -> None:
        self._sorted: list[Digests] = []

    @staticmethod
    def of_table(rows: Any, leaving: Collection[str]) -> "TakenIds":
        """Of the rows that are there, but for those of the units that leave."""
        taken = TakenIds()
        for batch in rows.scanner(columns=["id", "unit_id"], batch_size=8192).to_batches():
            units = batch.column("unit_id").to_pylist() if leaving else []
            names = batch.column("id").to_pylist()
            taken.add([n for n, unit in zip(names, units, strict=True) if unit not in leaving] if leaving else names)
        return taken

    def add(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of them were taken before, or stand earlier in `names`; from now on all are."""
        new_B2 = digests(names)
        order = np.lexsort((new_B2[:, 1], new_B2[:, 0]))
        sorted_B2 = new_B2[order]
        again_B = np.zeros(len(names), np.bool_)
        # lexsort is stable: of equal ids the first stays first.
        again_B[order[1:]] = (sorted_B2[1:] == sorted_B2[:-1]).all(axis=1)
        for known_N2 in self._sorted:
            again_B |= _among(new_B2, known_N2)
        self._keep(sorted_B2)
        return again_B

    def _keep(self, new_N2: Digests) -> None:
        while self._sorted and len(self._sorted[-1]) < 2 * len(new_N2):
            both = np.concatenate([self._sorted.pop(), new_N2])
            new_N2 = both[np.lexsort((both[:, 1], both[:, 0]))]
        if len(new_N2):
            self._sorted.append(new_N2)


def _among(asked_B2: Digests, known_N2: Digests) -> npt.NDArray[np.bool_]:
    """By the first halves; the second are compared where those are equal."""
    first_B = np.searchsorted(known_N2[:, 0], asked_B2[:, 0])
    found_B = np.zeros(len(asked_B2), np.bool_)
    for row in np.flatnonzero(known_N2[np.minimum(first_B, len(known_N2) - 1), 0] == asked_B2[:, 0]).tolist():
        at = int(first_B[row])
        while at < len(known_N2) and known_N2[at, 0] == asked_B2[row, 0]:
            if known_N2[at, 1] == asked_B2[row, 1]:
                found_B[row] = True
                break
            at += 1
    return found_B
