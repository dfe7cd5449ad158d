"""The end of a run: indices up to date, side tables tidied, and the tag `live` moved where that was asked for."""

from collections.abc import Callable

from jobs.compaction import tidy_side_tables
from jobs.lease import Lease
from jobs.tables import Tables, lance_module

LIVE = "live"
# Below this many rows a scan is as fast as an index, and building one is not worth a version.
SMALL = 5_000


def finish_table(tables: Tables, lease: Lease, *, publish: bool, say: Callable[[str], None]) -> int:
    """Scalar indices that the ledger, duplicates and filters need; returns the table's version."""
    rows = tables.open()
    if rows.count_rows() >= SMALL:
        say("updating indices")
        _scalar_indices(tables)
    tidy_side_tables(tables, lease)
    rows = tables.open()
    if publish:
        lease.check()
        tags = rows.tags.list()
        (rows.tags.update if LIVE in tags else rows.tags.create)(LIVE, rows.version)
    return int(rows.version)


def _scalar_indices(tables: Tables) -> None:
    lance = lance_module()
    rows = tables.open()
    indexed = {tuple(index["fields"]) for index in rows.list_indices()}
    try:
        for column, kind in (("id", "BTREE"), ("unit_id", "BITMAP"), ("tags", "LABEL_LIST")):
            if (column,) not in indexed:
                rows.create_scalar_index(column, kind)
        rows.optimize.optimize_indices()
    except lance.commit.CommitConflictError:
        return  # somebody else maintains the table right now; the next run catches up
