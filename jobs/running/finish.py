"""The end of a run: indices up to date, the tag `live` moved where that was asked for, and old versions removed."""

from collections.abc import Callable
from datetime import timedelta

from clipmill.jobs.committing.cleanup import KEEP, clean
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table import memory
from clipmill.jobs.table.live import PUBLISHED, move_live
from clipmill.jobs.table.readers import Readers, readers
from clipmill.jobs.table.tables import Tables

# Below this many rows a scan is as fast as an index, and building one is not worth a version.
SMALL = 5_000


def finish_table(
    tables: Tables, lease: Lease, *, publish: bool, say: Callable[[str], None], keep: timedelta = KEEP
) -> Readers:
    """Indices that filters, searches, duplicates and the ledger use; `publish` moves `live`; `keep`: the age
    at which versions of the rows leave. Under the lease.

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
    if publish and readers(rows).live != rows.version:
        move_live(tables, lease, int(rows.version), PUBLISHED, {})
    clean(tables, lease, say=say, keep=keep)
    return readers(rows)
