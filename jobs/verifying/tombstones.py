"""Rows that a person had deleted are not there."""

from typing import Any

from clipmill.jobs.table import tombstones
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.files import check_files
from clipmill.jobs.verifying.report import Problems


def check_tombstones(tables: Tables, rows: Any, fragments: list[Any], say: Problems) -> None:
    """No row has a tombstone that counts; and the table of tombstones is there where the ledger says so."""
    if not tombstones.deletes_in_ledger(tables):
        return
    dataset = tables.open(tombstones.PART, missing_ok=True)
    if dataset is None:
        say("files", f"the table {tables.name}__{tombstones.PART} is gone: what was deleted comes back with its source")
        return
    check_files(tables, tombstones.PART, dataset, say)
    stones = tombstones.read_tombstones(tables)
    columns = ["id", "uri", "image_hash"]
    for batch in rows.scanner(columns=columns, fragments=fragments).to_batches() if len(stones) else ():
        for row in batch.to_pylist():
            if stones.holds(row["id"], row["uri"], row["image_hash"]):
                say("tombstones", f"row {row['id']} is there, though it was deleted on request")
