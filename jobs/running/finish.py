"""The end of a run: indices up to date, the tag `live` moved where that was asked for, and old versions removed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table import memory
from clipmill.jobs.table.errors import one_line
from clipmill.jobs.table.readers import LIVE, Readers, readers
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table, table_id

# Below this many rows a scan is as fast as an index, and building one is not worth a version.
SMALL = 5_000
KEEP = timedelta(days=7)  # versions of the rows: as long as a reader may hold one, or a person want it back
LEAST_KEEP = timedelta(days=1)
CLEANED_KEY = "clipmill.cleaned"  # in the config of `__runs`: when old versions were removed last
CLEAN_EVERY = timedelta(days=1)


def finish_table(tables: Tables, lease: Lease, *, publish: bool, say: Callable[[str], None]) -> Readers:
    """Indices that filters, searches, duplicates and the ledger use; `publish` moves `live`. Under the lease.

    Recall is measured by `clipmill index`, not at the end of every run.
    """
    rows = tables.open()
    if rows.count_rows() >= SMALL:
        from clipmill.jobs.indexing.build import IndexOptions, build_index

        memory.give_back()  # what the units took is not added to what the indices take
        say("updating indices")
        build_index(
            f"{tables.database}/{tables.name}", IndexOptions(measure_recall=False), tables.storage, tell=lambda _: None
        )
        rows = tables.open()
    if publish:
        lease.check()
        tags = rows.tags.list()
        (rows.tags.update if LIVE in tags else rows.tags.create)(LIVE, rows.version)
    clean(tables, lease, say=say)
    return readers(rows)


def clean(tables: Tables, lease: Lease, *, say: Callable[[str], None], keep: timedelta = KEEP) -> bool:
    """Remove versions of the rows that are older than `keep`, and files of no version that Lance knows to be older than
    a week. Under the lease; at most once a day, because Lance reads every manifest for it. True where it was done.

    What a tag names stays: `live`, and the newest fence, without which a late commit would go unseen. Files that no
    version lists may be another writer's, so they are never removed before their week is over. What goes wrong is told
    and left to the next run. Raises LeaseLost.
    """
    assert keep >= LEAST_KEEP or keep == timedelta(0), "less than a day is for tests that hold the only handle"
    now = datetime.now(UTC)
    runs = tables.open("runs")
    if keep and not _is_due(runs, table_id(tables.open().schema), now, keep):
        return False
    lease.check()
    say("removing versions that nobody needs")
    try:
        tables.open().cleanup_old_versions(keep, error_if_tagged_old_versions=False)
        tables.open("runs").update_config({CLEANED_KEY: now.isoformat()})
    except (OSError, ValueError, RuntimeError) as error:
        say(f"old versions were not removed, the next run tries again: {one_line(error)}")
        return False
    return True


def _is_due(runs: Any, table_id: str, now: datetime, keep: timedelta) -> bool:
    """Whether there may be something old enough, and nobody looked today. Clocks decide nothing else here."""
    cleaned = runs.config().get(CLEANED_KEY)
    if cleaned and timedelta(0) <= now - datetime.fromisoformat(cleaned) < CLEAN_EVERY:
        return False
    times = runs.to_table(columns=["at"], filter=of_table(runs.schema, table_id))["at"].to_pylist()
    return bool(times) and now - min(times) >= keep
