"""Ids are there once."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipmill.jobs.verifying.report import Problems


def check_ids(rows: Any, fragments: list[Any], say: Problems) -> None:
    """Unique, by 8 bytes a row; what collides is looked at by name."""
    hashes: list[npt.NDArray[np.uint64]] = []
    for batch in rows.scanner(columns=["id"], fragments=fragments).to_batches():
        ids = batch.column("id").to_pylist()
        hashes.append(np.fromiter((_hash(i) for i in ids), np.uint64, len(ids)))
    if not hashes:
        return
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = {int(v) for v in values[counts > 1]}
    if not suspects:
        return
    found: Counter[str] = Counter()
    for batch in rows.scanner(columns=["id"], fragments=fragments).to_batches():
        found.update(i for i in batch.column("id").to_pylist() if _hash(i) in suspects)
    for name, count in found.items():
        if count > 1:
            say("ids", f"id {name} is there {count} times")


def _hash(text: str) -> int:
    return int(xxhash.xxh3_64_intdigest(text.encode()))
