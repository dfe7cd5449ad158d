"""What the units of one actor share: the model, the tagger, the decode threads, and whose turn it is."""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.workers.engine import Engine
from clipmill.workers.flow import Turns
from clipmill.workers.recent import Recent
from clipmill.workers.tag import Tagger

Vector = npt.NDArray[np.float32]  # (D,)

# Vectors of captions that may come again (a class name, an alt text of a shop), for all units of an actor.
CAPTIONS_MAX_BYTES = 64_000_000


def _caption_bytes(caption: str, vector_D: Vector) -> int:
    return vector_D.nbytes + 2 * len(caption) + 300  # the objects themselves


@dataclass(slots=True, kw_only=True)
class Bench:
    """Thread-safe; one for each actor."""

    engine: Engine
    tagger: Tagger | None
    pool: Executor | None  # None: decode on the unit's own thread, one sample at a time
    decode_window: int = 16
    samples_at_once: int = 32  # that take a turn at the model
    turns: Turns = field(default_factory=Turns)
    captions: Recent[str, Vector] = field(default_factory=lambda: Recent(_caption_bytes, max_bytes=CAPTIONS_MAX_BYTES))
    _at_work: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def unit(self) -> Iterator[None]:
        """A unit is at work; the engine is told how many are, so that the last one has all threads for itself."""
        self._changed_by(1)
        try:
            yield
        finally:
            self.turns.all_at_once()  # the first one has ended
            self._changed_by(-1)

    def _changed_by(self, units: int) -> None:
        with self._lock:
            self._at_work += units
            self.engine.share(min(self._at_work, self.turns.at_once))
