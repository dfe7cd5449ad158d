"""How many of a night's rows are new, and how many were there before. A folder's unit is written anew as a whole when
one picture is added to it, so units say little of rows. And from where on a night's report lists what came.

A night that was killed, interrupted or failed may have committed rows. Its own report lists none of them, if there is
one at all: what came since the last night that was whole is listed by the next one that is, so each row in one report.
"""

from dataclasses import dataclass
from typing import Any

from clipmill.jobs.committing.commit import ids_filter
from clipmill.jobs.publishing.night import Night
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.runs import nights_begun
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.unit.receipts import LedgerState

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


def listed_until(tables: Tables, history: list[Night], before: int) -> int:
    """The version of the rows up to which the reports of nights list what came. `before`: that at which this night
    began. Where no night was whole yet, that before the first commit of a night, after healing."""
    for night in reversed(history):
        if night.is_whole and "rows" in night.versions:
            return night.versions["rows"]
        if night.listed_until is not None:
            return night.listed_until
    begun = nights_begun(tables)
    came = [e.table_version for e in read_ledger(tables).values() if e.run in begun] if begun else []
    return min([before, *(version - 1 for version in came)])


def is_unlisted(tables: Tables, night: Night) -> bool:
    """Whether a night that found nothing to do has rows to list: of a night that was killed after it had published
    them, or of a run by hand."""
    after, until = night.listed_until, night.versions.get("rows", 0)
    if after is None or after >= until:
        return False
    units = tables.open("units")
    came = (
        f"state = '{LedgerState.COMMITTED}' AND table_version > {after} AND {of_table(units.schema, tables.id() or '')}"
    )
    if "deleted_by" in units.schema.names:  # a deletion enters its unit anew
        came += " AND (deleted_by IS NULL OR deleted_by = '')"
    return bool(units.count_rows(filter=came))
