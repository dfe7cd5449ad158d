"""What is worth keeping from one query to the next, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values by key; the one longest unused goes first. Thread-safe, and two threads that miss both make the value."""

    def __init__(self, max_bytes: int, size_bytes: Callable[[T], int]) -> None:
        self._max_bytes, self._size_bytes = max_bytes, size_bytes
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key not in self._values and self._size_bytes(value) <= self._max_bytes:
                self._values[key] = value
                self._bytes += self._size_bytes(value)
            while self._bytes > self._max_bytes:
                self._bytes -= self._size_bytes(self._values.popitem(last=False)[1])
        return value
