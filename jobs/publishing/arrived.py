"""How many of a night's rows are new, and how many were there before. A folder's unit is written anew as a whole when
one picture is added to it, so units say little of rows."""

from dataclasses import dataclass
from typing import Any

from clipmill.jobs.committing.commit import ids_filter

LOOKUP = 5_000  # ids per query of the older version


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Rows by what became of their id: it was not there, it has another picture or caption now, or nothing changed and
    only its unit was read again."""

    new: int = 0
    changed: int = 0
    again: int = 0


def arrived(rows: Any, before: int) -> Arrived | None:
    """Of rows written after the version `before` (0: there was no table). None where that version is gone. Memory is a
    batch of ids."""
    filter_ = f"_row_created_at_version > {before}"
    if not before:
        return Arrived(new=int(rows.count_rows()))
    try:
        old = rows.checkout_version(before)
        if not old.count_rows():
            return Arrived(new=int(rows.count_rows(filter=filter_)))
        new = changed = again = 0
        columns = ["id", "image_hash", "caption"]
        for batch in rows.scanner(columns=columns, filter=filter_, batch_size=LOOKUP).to_batches():
            ids = batch.column("id").to_pylist()
            known = old.to_table(columns=columns, filter=ids_filter(ids)).to_pylist() if ids else []
            was = {row["id"]: row for row in known}
            for row in batch.to_pylist():
                there = was.get(row["id"])
                new += there is None
                changed += there is not None and there != row
                again += there == row
    except (OSError, ValueError):
        return None
    return Arrived(new=new, changed=changed, again=again)
