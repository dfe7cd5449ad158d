"""What a person had deleted, as a worker asks for it: may this sample have a row?

N: keys of tombstones.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.schemas.unit.rejects import Reason, Reject

_DETAIL = "deleted on request; image_hash "


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """One row that was deleted, or a `duplicate_id` reject whose winner was: then `image_hash` is empty.

    `everywhere`: no other row had these bytes, so they stay away under any id.
    """

    id: str
    uri: str
    image_hash: str
    everywhere: bool = False

    def digests(self) -> list[bytes]:
        """What it stands for: this id with these bytes; these bytes; this id at this place."""
        if not self.image_hash:
            return [_key("place", self.id, self.uri)]
        return [_key("pair", self.id, self.image_hash), *([_key("bytes", self.image_hash)] if self.everywhere else [])]


@dataclass(frozen=True, slots=True, eq=False)
class Tombstones:
    """Digests of all of them, 16 bytes a key: (N, 2) uint64, sorted by the first. It pickles, and is asked from any
    thread."""

    digests_N2: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 2), np.uint64), repr=False)

    @staticmethod
    def of(stones: Iterable[Tombstone]) -> "Tombstones":
        digests_N2 = np.frombuffer(b"".join(key for one in stones for key in one.digests()), np.uint64).reshape(-1, 2)
        return Tombstones(digests_N2[np.argsort(digests_N2[:, 0], kind="stable")])

    def __len__(self) -> int:
        return len(self.digests_N2)

    def holds(self, id: str, uri: str, image_hash: str) -> bool:
        """Whether a sample stays away."""
        keys = (("pair", id, image_hash), ("bytes", image_hash), ("place", id, uri)) if len(self) else ()
        return any(self._has(_key(*key)) for key in keys)

    def _has(self, key: bytes) -> bool:
        first, second = np.frombuffer(key, np.uint64)
        column_N = self.digests_N2[:, 0]
        start, stop = np.searchsorted(column_N, first, "left"), np.searchsorted(column_N, first, "right")
        return bool((self.digests_N2[start:stop, 1] == second).any())


def _key(*parts: str) -> bytes:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def deleted_reject(id: str, uri: str, image_hash: str) -> Reject:
    """What a sample becomes that is read again after its row was deleted."""
    return Reject(id=id, uri=uri, reason=Reason.DELETED, detail=f"{_DETAIL}{image_hash}")


def hash_in(detail: str) -> str:
    """The image hash of such a reject."""
    return detail.removeprefix(_DETAIL)
