"""Moving the tag `live`, whoever does it: a night, a person, the end of a run."""

import json
from typing import Any, Protocol

from clipmill.jobs.table.readers import LIVE, tags_of
from clipmill.jobs.table.runs import events_of
from clipmill.jobs.table.tables import Tables

PREVIOUS = "live-previous"  # keeps from cleanup what readers saw before
PUBLISHED, ROLLED_BACK = "published", "rolled_back"


class Holder(Protocol):
    """Of the lease."""

    run: str
    command: str

    def check(self) -> None: ...


def move_live(tables: Tables, lease: Holder, version: int, event: str, detail: dict[str, Any]) -> None:
    """Under the lease. `live` moves after the tag that keeps what it leaves: killed between the two, nobody sees a
    change and the next call does both. The log's line comes last: the tags are what counts."""
    rows = tables.open()
    tags = tags_of(rows)
    before = int(tags[LIVE]["version"]) if LIVE in tags else None
    lease.check()
    if before is not None and before != version:
        (rows.tags.update if PREVIOUS in tags else rows.tags.create)(PREVIOUS, before)
    (rows.tags.update if LIVE in tags else rows.tags.create)(LIVE, version)
    text = json.dumps({"version": version, "before": before, **detail})
    tables.log_run(lease.run, lease.command, event, text, table_id=tables.id())


def moves(tables: Tables) -> list[tuple[str, dict[str, Any]]]:
    """(event, detail) of each line of the log that says that `live` moved, the earliest first."""
    found = events_of(tables, ["event", "detail"], f"event IN ('{PUBLISHED}', '{ROLLED_BACK}')")
    return [(line["event"], json.loads(line["detail"])) for line in found]
