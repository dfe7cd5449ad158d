"""What the rows themselves say: ids, vectors, tags.

B: rows of a batch. D: dimension.
"""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from jobs.verifying.report import Problems

NORM_TOLERANCE = 2e-3  # float16 has 11 bits; 512 rounded components stay within this of unit length


def check_ids(rows: Any, say: Problems) -> None:
    """Unique, by 8 bytes a row; what collides is looked at by name."""
    hashes: list[npt.NDArray[np.uint64]] = []
    for batch in rows.scanner(columns=["id"]).to_batches():
        ids = batch.column("id").to_pylist()
        hashes.append(np.fromiter((_hash(i) for i in ids), np.uint64, len(ids)))
    if not hashes:
        return
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = {int(v) for v in values[counts > 1]}
    if not suspects:
        return
    found: Counter[str] = Counter()
    for batch in rows.scanner(columns=["id"]).to_batches():
        found.update(i for i in batch.column("id").to_pylist() if _hash(i) in suspects)
    for name, count in found.items():
        if count > 1:
            say("ids", f"id {name} is there {count} times")


def _hash(text: str) -> int:
    return int(xxhash.xxh3_64_intdigest(text.encode()))


def check_vectors(rows: Any, say: Problems) -> None:
    """Unit length, finite; scores in range; tags and their scores parallel."""
    columns = [c for c in ("id", "vector", "caption_vector", "tags", "tag_scores") if c in rows.schema.names]
    for batch in rows.scanner(columns=columns, batch_size=4096).to_batches():
        for name in ("vector", "caption_vector"):
            for position in _not_unit(batch.column(name)):
                say(name, f"row {batch.column('id')[position]}: {name} is not of unit length")
        tags, scores = batch.column("tags"), batch.column("tag_scores")
        for position in np.flatnonzero(_lengths(tags) != _lengths(scores)).tolist():
            say("tags", f"row {batch.column('id')[position]}: tags and tag_scores differ in length")


def _not_unit(column: Any) -> list[int]:
    valid = np.asarray(column.is_valid())
    if not valid.any():
        return []
    dim = column.type.list_size
    vectors_BD = np.asarray(column.flatten()).astype(np.float32).reshape(-1, dim)  # flatten leaves nulls out
    norms_B = np.linalg.norm(vectors_BD, axis=1)
    bad = ~(np.abs(norms_B - 1) <= NORM_TOLERANCE)
    return [int(i) for i in np.flatnonzero(valid)[bad]]


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column), -1))
