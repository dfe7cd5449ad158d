"""What the processes of one server hold of a table version, held once: files in a folder of theirs, mapped by each.

Whoever needs a thing first makes it, the others wait for that one. What is mapped stays although its file has gone, so
the files of the version before go as soon as there is a newer one. Those of a newer one stay where a process makes an
older: it may have been slow to load that, and would take from the others what it needs itself a moment later.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

Held = TypeVar("Held")


class Key(NamedTuple):
    """`identity`: the table, its version and more; `more`: what else tells two things of one version apart."""

    identity: tuple[str, int, str]
    more: object = None


class Shared:
    """`folder`: nobody else's, as `tempfile.mkdtemp` makes it, and on a disk of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_or_make(self, kind: str, key: Key, make: Callable[[Path], None], read: Callable[[Path], Held]) -> Held:
        """What `read` makes of the folder that `make` filled, here or in another process. Of a kind two are kept at
        most: the last that was asked for, and of the same table the newest. Raises what they raise; nothing half made
        is left."""
        place = self._place(kind, key)
        with (self._folder / f"{_short(kind)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or its process gone
            if not place.exists():
                self._make(kind, place, make)
            self._forget_others(kind, place)
            return read(place)

    def has(self, kind: str, key: Key) -> bool:
        return self._place(kind, key).exists()

    def _place(self, kind: str, key: Key) -> Path:
        """By their names, places of one table are in the order of its versions."""
        table, version, _ = key.identity
        return self._folder / f"{_short(kind)}-{_short(table)}-{version:020d}-{_short(repr(key))}"

    def _make(self, kind: str, place: Path, make: Callable[[Path], None]) -> None:
        half = Path(tempfile.mkdtemp(prefix=f"{_short(kind)}+", dir=self._folder))
        try:
            make(half)
            half.rename(place)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise

    def _forget_others(self, kind: str, place: Path) -> None:
        """Of other versions, and what a process left that was killed."""
        of_table, _, _ = place.name.rsplit("-", 2)
        newest = max(one.name for one in self._folder.glob(f"{of_table}-*"))
        for one in self._folder.glob(f"{_short(kind)}[-+]*"):
            if one.name not in (place.name, newest):
                shutil.rmtree(one, ignore_errors=True)


def _short(text: str) -> str:
    """Names of columns are anybody's."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def save_arrays(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def map_arrays(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """As they were saved; not to be written to."""
    found = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in folder.glob("*.npy")}
    return {name: values.view(np.ndarray) for name, values in found.items()}
