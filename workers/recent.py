"""What is worth keeping from one use to the next, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values that were looked up or put in last, up to about `max_bytes` of weight. Thread-safe."""

    def __init__(self, weigh: Callable[[K, V], int], *, max_bytes: int) -> None:
        self._weigh, self._max_bytes = weigh, max_bytes
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

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
        """Two threads that miss at once both make the value."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value
