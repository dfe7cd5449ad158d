"""A filter's rows, asked of Lance: under a deadline a few fragments at a time."""

import time
from collections.abc import Iterator
from typing import Any

from clipmill.jobs.querying import deadline

_PIECE_S = 0.5


def scanners(dataset: Any, predicate: str) -> Iterator[Any]:
    """Of the ids of rows that pass. Under a deadline in pieces, so that a filter that takes too long is noticed and
    gives its thread back; each piece is twice as long as the one before while there is time."""
    options: dict[str, Any] = {"columns": [], "filter": predicate, "with_row_id": True}
    if not deadline.is_set():
        yield dataset.scanner(**options)
        return
    fragments = dataset.get_fragments()
    start, size = 0, 1
    while start < len(fragments):
        deadline.check()
        began = time.monotonic()
        yield dataset.scanner(fragments=fragments[start : start + size], **options)
        start += size
        size = size * 2 if time.monotonic() - began < _PIECE_S else max(1, size // 2)
    deadline.check()
