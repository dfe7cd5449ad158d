"""A table of 60 pictures on this disk with a ledger that adds up and two rejects; one names a strange place."""

from dataclasses import replace
from pathlib import Path

from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.workers.write import reject_table
from tests.tables import TableOptions, batch, ledger_entry, make_table

ROWS = 60


def make_pushed(folder: Path, *, rows: int = ROWS) -> str:
    """Returns `<folder>/images`; the pictures lie in `<folder>/mine/pictures`."""
    pictures = folder / "mine" / "pictures"
    pictures.mkdir(parents=True)
    options = TableOptions(rows=rows, images=pictures)
    uri = make_table(folder, replace(options, images=None))
    import lance

    found = batch(options)
    found = found.set_column(0, found.schema.field("id"), found["uri"])  # as they are by default
    lance.write_dataset(found, f"{uri}.lance", mode="overwrite", enable_stable_row_ids=True)
    tables = Tables.at(uri)
    tables.ensure_side_tables()
    entries = [ledger_entry(f"unit{n}", f"{pictures}/", rows=rows // 4) for n in range(4)]
    entries[0] = replace(entries[0], seen=rows // 4 + 2, rejected=2, left_out='{"heic": 3}')
    ledger.append(tables, entries)
    named = [
        Reject(
            id=f"{pictures}/b d.jpg", uri=f"{pictures}/b d.jpg", reason=Reason.CORRUPT, detail=f"as {pictures}/a.jpg"
        ),
        Reject(id="/etc/secret", uri="/etc/secret", reason=Reason.BAD_URI, detail="/etc/secret is no picture"),
    ]
    tables.append("rejects", reject_table(named, unit_id="unit0", run="test", attempt=1, fingerprint="0" * 16))
    return uri
