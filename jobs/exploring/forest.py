"""Which rows are joined to which, one pair at a time. N: rows."""

import numpy as np
import numpy.typing as npt


class Forest:
    """Disjoint sets over 0..N-1 with path halving."""

    def __init__(self, size: int) -> None:
        self.parent = np.arange(size, dtype=np.int64)

    def root(self, place: int) -> int:
        parent = self.parent
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = int(parent[place])
        return place

    def join(self, one: int, other: int) -> bool:
        a, b = self.root(one), self.root(other)
        if a == b:
            return False
        self.parent[max(a, b)] = min(a, b)  # the earlier row names the group, so that a second run says the same
        return True

    def roots(self) -> npt.NDArray[np.int64]:
        while True:
            up = self.parent[self.parent]
            if np.array_equal(up, self.parent):
                return up
            self.parent = up
