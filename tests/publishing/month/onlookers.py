"""Readers at full speed: they open what is published, again and again, and note what is wrong with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.compat import stored_fingerprint
from clipmill.schemas.job.config import Storage

NEAREST = 5


@dataclass
class Onlookers:
    """`seen`: rows by version. `looks`: how often the table was opened and read."""

    table: str
    storage: Storage
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[str] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    looks: int = 0

    def look(self) -> None:
        while not self.stop.is_set():
            try:
                table = open_table(self.table, storage=self.storage)
                dataset = table.snapshot.dataset
                found = dataset.to_table(columns=["id", "vector"])
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            self.looks += 1
            ids = found["id"].to_pylist()
            if len(set(ids)) != len(ids):
                self.errors.append(f"version {table.version} has an id twice")
            if self.seen.setdefault(table.version, len(ids)) != len(ids):
                self.errors.append(f"version {table.version} changed")
            if ids and self._asks_the_index(dataset, found["vector"][0]) != min(NEAREST, len(ids)):
                self.errors.append(f"version {table.version} finds a neighbour twice, or too few")
            if stored_fingerprint(dataset.schema).dim != found.schema.field("vector").type.list_size:
                self.errors.append(f"version {table.version} has vectors of another model than it says")

    @staticmethod
    def _asks_the_index(dataset: Any, vector: Any) -> int:
        """Neighbours of a vector, by the index where there is one: how many ids."""
        asked = {"column": "vector", "q": np.asarray(vector.as_py(), np.float32), "k": NEAREST, "metric": "cosine"}
        found = dataset.to_table(columns=["id", "_distance"], nearest=asked)
        return len(set(found["id"].to_pylist()))


@contextmanager
def onlookers(table: str, storage: Storage) -> Iterator[Onlookers]:
    """None of them may meet an error."""
    watching = Onlookers(table, storage)
    thread = threading.Thread(target=watching.look, daemon=True)
    thread.start()
    try:
        yield watching
    finally:
        watching.stop.set()
        thread.join(120)
    assert not watching.errors, watching.errors[:3]
