"""The end of a run: the table's indices up to date, and the tag `live` moved where that was asked for."""

from collections.abc import Callable

from jobs import memory
from jobs.lease import Lease
from jobs.tables import Tables

LIVE = "live"
# Below this many rows a scan is as fast as an index, and building one is not worth a version.
SMALL = 5_000


def finish_table(tables: Tables, lease: Lease, *, publish: bool, say: Callable[[str], None]) -> int:
    """Indices that filters, searches, duplicates and the ledger use; returns the table's version.

    Recall is measured by `clipmill index`, not at the end of every run.
    """
    rows = tables.open()
    if rows.count_rows() >= SMALL:
        from jobs.index import IndexOptions, build_index

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
    return int(rows.version)
