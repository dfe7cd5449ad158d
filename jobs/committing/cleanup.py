"""Versions of the rows that nobody needs any more, and the files that only they have."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table, table_id
from clipmill.schemas.text.secrets import one_line

KEEP = timedelta(days=7)  # versions of the rows: as long as a reader may hold one, or a person want it back
LEAST_KEEP = timedelta(days=1)
CLEANED_KEY = "clipmill.cleaned"  # in the config of `__runs`: when old versions were removed last
CLEAN_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a cleanup removed."""

    versions: int
    size_bytes: int


def clean(
    tables: Tables, lease: Lease, *, say: Callable[[str], None], keep: timedelta = KEEP, even_today: bool = False
) -> Cleaned | None:
    """Remove versions of the rows that are older than `keep`, and files of no version that Lance knows to be older than
    a week. Under the lease; at most once a day, unless `even_today`, because Lance reads every manifest for it. None
    where it was not done.

    What a tag names stays: `live`, and the newest fence, without which a late commit would go unseen. Files that no
    version lists may be another writer's, so they are never removed before their week is over. What goes wrong is told
    and left to the next run. Raises LeaseLost.
    """
    assert keep >= LEAST_KEEP or keep == timedelta(0), "less than a day is for tests that hold the only handle"
    now = datetime.now(UTC)
    runs = tables.open("runs")
    if keep and not even_today and not _is_due(runs, table_id(tables.open().schema), now, keep):
        return None
    lease.check()
    say("removing versions that nobody needs")
    try:
        done = tables.open().cleanup_old_versions(keep, error_if_tagged_old_versions=False)
    except (OSError, ValueError, RuntimeError) as error:
        say(f"old versions were not removed, the next run tries again: {one_line(error)}")
        return None
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # no space left, say: the next run looks again
        tables.open("runs").update_config({CLEANED_KEY: now.isoformat()})
    return Cleaned(versions=int(done.old_versions), size_bytes=int(done.bytes_removed))


def _is_due(runs: Any, table_id: str, now: datetime, keep: timedelta) -> bool:
    """Whether there may be something old enough, and nobody looked today. Clocks decide nothing else here."""
    cleaned = runs.config().get(CLEANED_KEY)
    if cleaned and timedelta(0) <= now - datetime.fromisoformat(cleaned) < CLEAN_EVERY:
        return False
    times = runs.to_table(columns=["at"], filter=of_table(runs.schema, table_id))["at"].to_pylist()
    return bool(times) and now - min(times) >= keep
