"""What each tool's script reports, to itself and to the benchmark; imports nothing that a peer's environment may lack.

A script is started as `PYTHON run_x.py GIVEN.json` and ends by writing report.json: when it was ready (the model
loaded, reading may begin), when it was done (everything on disk), and how many samples it embedded. What it prints is
its own: clip-retrieval's logger writes between any two lines.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Given:
    """`tars` and `folder` hold the same samples, packed and loose (`NUMBER.jpg`, `NUMBER.txt`)."""

    tars: list[str]
    folder: str
    model: str
    checkpoint: str
    out: str
    samples: int
    threads: int
    batch_size: int
    options: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Notes the two moments, then writes what the tool wrote into one common file for the comparison."""

    def __init__(self) -> None:
        self.ready_at = self.done_at = 0.0

    def ready(self) -> None:
        self.ready_at = self.ready_at or time.time()

    def done(self) -> None:
        self.done_at = time.time()

    def report(self, keys: Any, images_ND: Any, texts_ND: Any, given: Given) -> None:
        """Untimed. `keys` are the samples' names, such as 000017; vectors in the same order, of any float type."""
        import numpy as np

        keys = np.array([Path(str(key)).stem for key in keys])
        np.savez(
            Path(given.out) / "vectors.npz",
            keys=keys,
            images=np.asarray(images_ND, np.float32),
            texts=np.asarray(texts_ND, np.float32),
        )
        said = {"ready_at": self.ready_at, "done_at": self.done_at, "samples": len(keys)}
        report_of(given).write_text(json.dumps(said))

    def report_lance(self, uri: str, columns: tuple[str, str], given: Given) -> None:
        """Untimed. From a table with `key` and two columns of vectors, images first; ready when `note_ready` said."""
        self.ready_at = float(_ready_note(given).read_text())
        import lance
        import numpy as np

        table = lance.dataset(uri).to_table()
        images_ND, texts_ND = (np.stack(table[name].combine_chunks().to_pylist()) for name in columns)
        self.report(table["key"].to_pylist(), images_ND, texts_ND, given)


def note_ready(given: Given) -> None:
    """Called where the model lives, which may be a process of the tool's own."""
    _ready_note(given).write_text(str(time.time()))


def _ready_note(given: Given) -> Path:
    return Path(given.out) / "ready"


def report_of(given: Given) -> Path:
    return Path(given.out) / "report.json"


def given() -> Given:
    return Given(**json.loads(Path(sys.argv[1]).read_text()))
