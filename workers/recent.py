"""What is worth keeping from one use to the next, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PATIENCE_S = 5.0


class Recent(Generic[K, V]):
    """The values that were looked up or put in last, up to about `max_bytes` of weight. Thread-safe."""

    def __init__(self, weigh: Callable[[K, V], int], *, max_bytes: int) -> None:
        self._weigh, self._max_bytes = weigh, max_bytes
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._under_way: dict[K, threading.Event] = {}

    def get(self, key: K) -> V | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        weight = self._weigh(key, value)
        with self._lock:
            if key in self._values or weight > self._max_bytes:
                return
            self._values[key] = value
            self._bytes += weight
            while self._bytes > self._max_bytes:
                old, dropped = self._values.popitem(last=False)
                self._bytes -= self._weigh(old, dropped)

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """Who misses while another thread makes the value waits for it, `PATIENCE_S` at most, and makes it where none
        came of that: it failed, takes long, or is too large to be remembered."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            others = self._under_way.get(key)
            mine = self._under_way.setdefault(key, threading.Event())
        if others is not None:
            others.wait(PATIENCE_S)
            if (value := self.get(key)) is not None:
                return value
        try:
            value = make()
            self.put(key, value)
            return value
        finally:
            if others is None:
                with self._lock:
                    del self._under_way[key]
                mine.set()
