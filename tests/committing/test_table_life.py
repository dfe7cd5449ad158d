"""The rows table dies and its ledger lives, or an older clipmill made what stands beside it: all is there once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pytest

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.jobs.verifying.status import count_rejects
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas import columns
from clipmill.schemas.columns import TABLE_ID_KEY, rows_schema, table_id
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerState
from tests.committed import DIM, FINGERPRINT, entry, fragments, ids, make_tables, receipt, take_lease, unit


def drop_table(tables: Tables) -> None:
    lancedb.connect(tables.database.removeprefix("file://")).drop_table(tables.name)


def remove_folder(tables: Tables) -> None:
    shutil.rmtree(tables.rows.removeprefix("file://"))


def remake(tables: Tables) -> None:
    schema = rows_schema(
        dim=DIM, keep={}, fingerprint_json=FINGERPRINT.to_json(), vocabulary_json=None, thumbnails=False
    )
    tables.ensure_side_tables()
    tables.create("", schema)


def embed(tables: Tables, run: str, *, only: int = 9, die: bool = False) -> None:
    """What a driver does with four units of two rows and a reject, in as many commits; `die` after the last rows."""
    lease = take_lease(tables, run)
    latest, _ = heal.heal(tables, Committer(tables, lease))
    todo = make_plan([unit(f"u{n}") for n in range(4)], latest).todo[:only]

    def hook(step: str) -> None:
        if die and step == "after_rows" and one is todo[-1]:
            raise SystemExit

    committer = Committer(tables, lease, hook=hook)
    for one in todo:
        done = receipt(tables, run, one.unit_id, [f"{one.unit_id}-a", f"{one.unit_id}-b"], bad=1)
        counted = ledger.to_entry(
            {**{f: getattr(entry(one.unit_id, run, 2), f) for f in ledger._FIELDS}, "seen": 3, "rejected": 1}
        )
        try:
            committer.commit([counted], done.fragments, reject_fragments=done.reject_fragments)
        except SystemExit:
            break
    lease.release()


EVERYTHING = [f"u{n}-{part}" for n in range(4) for part in "ab"]


@pytest.mark.parametrize("death", [drop_table, remove_folder])
@pytest.mark.parametrize("die", [False, True])
def test_a_table_that_died_is_made_again_in_full(tmp_path: Path, death: Callable[[Tables], None], die: bool) -> None:
    """Then a run that is interrupted (`die`: between its rows and the ledger), and one more."""
    tables = make_tables(tmp_path)
    embed(tables, "first")
    old = tables.id()
    death(tables)
    assert ledger.read_ledger(tables) == {}
    remake(tables)
    assert tables.id() != old
    embed(tables, "second", only=1, die=die)
    embed(tables, "third")
    assert ids(tables) == EVERYTHING
    report = verify(f"{tables.database}/{tables.name}", Storage())
    assert (report.problems, report.seen, report.rejects) == ([], 12, 4)
    assert count_rejects(tables) == {"corrupt": 4}


def older(tables: Tables) -> None:
    """Make the tables as a clipmill without table ids, and without a count of what it left out, did."""
    for part, schema in SIDE_TABLES.items():
        newer = ("table_id", "left_out", "moved", "deleted", "deleted_by")
        old = pa.schema([field for field in schema if field.name not in newer])
        shutil.rmtree(tables.uri(part).removeprefix("file://"), ignore_errors=True)
        lance.write_dataset(old.empty_table(), tables.uri(part), schema=old, enable_stable_row_ids=True)
    schema = tables.open().schema.remove_metadata()
    remove_folder(tables)
    lance.write_dataset(schema.empty_table(), tables.rows, schema=schema, enable_stable_row_ids=True)


def test_an_older_table_goes_on_and_is_told_from_one_made_after_it(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    older(tables)
    assert tables.id() == ""
    version = tables.open().version
    past = pa.Table.from_pylist(
        [{**{f: getattr(entry("u0", "old", 0), f) for f in ledger._FIELDS}, "table_version": version}],
        schema=tables.open("units").schema,
    )
    tables.append("units", past)
    assert set(ledger.read_ledger(tables)) == {"u0"}  # by whoever only reads, before anything was changed
    tables.ensure_side_tables()
    tables.ensure_side_tables()
    for part, schema in SIDE_TABLES.items():
        assert tables.open(part).schema.names == schema.names
    embed(tables, "new")
    assert set(ledger.read_ledger(tables)) == {"u0", "u1", "u2", "u3"}
    assert ids(tables) == EVERYTHING[2:]
    remove_folder(tables)
    remake(tables)
    assert ledger.read_ledger(tables) == {}


def test_a_column_is_added_while_somebody_appends(tmp_path: Path) -> None:
    """The commit of a column loses to an append that came first, and is made again."""
    tables = make_tables(tmp_path)
    older(tables)
    real, calls = Tables.open, []

    def open_then_append(self: Tables, part: str = "", **options: object) -> object:
        dataset = real(self, part, **options)  # type: ignore[arg-type]
        calls.append(part)
        if part == "units" and calls.count("units") == 2:
            lance.write_dataset(dataset.schema.empty_table(), self.uri(part), mode="append")
        return dataset

    Tables.open = open_then_append  # type: ignore[method-assign, assignment]
    try:
        tables.ensure_side_tables()
    finally:
        Tables.open = real  # type: ignore[method-assign]
    assert "table_id" in tables.open("units").schema.names
    assert calls.count("units") >= 3  # looked, lost and won


def test_a_table_made_again_during_a_run_gets_none_of_its_rows(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    committer = Committer(tables, take_lease(tables, "a"))
    written = fragments(tables, "u1", ["1"])
    remove_folder(tables)
    remake(tables)
    with pytest.raises(ClipmillError, match="was dropped and made again during the run"):
        committer.commit([entry("u1", "a", 1)], written)
    assert ids(tables) == []


def test_the_id_outlives_what_is_done_to_the_table(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    embed(tables, "a")
    mine = tables.id()
    assert mine
    rows = tables.open()
    rows.add_columns(pa.field("more", pa.int32()))
    rows.alter_columns({"path": "more", "name": "less"})
    rows.create_scalar_index("id", "BTREE")
    rows.optimize.compact_files()
    rows.drop_columns(["less"])
    plain = lancedb.connect(tables.database.removeprefix("file://")).open_table(tables.name)
    plain.delete("id = 'u0-a'")
    assert tables.id() == mine
    tables.open(version=1).restore()
    assert (tables.id(), table_id(tables.open(version=1).schema)) == (mine, mine)
    assert TABLE_ID_KEY in tables.open().schema.metadata


def test_a_batch_of_the_ledger_reads_as_its_rows_do() -> None:
    """What an older clipmill wrote has nulls and lacks columns."""
    row = {one.name: "x" if pa.types.is_string(one.type) else 3 for one in columns.UNITS}
    states = ["committed", "alias", "retired"]
    rows = [{**row, "state": state, "left_out": None, "moved": None, "deleted_by": None} for state in states]
    rows.append({**row, "state": "committed", "deleted": None})
    batch = pa.RecordBatch.from_pylist(rows, schema=columns.UNITS)
    older = batch.drop_columns(["deleted", "deleted_by"])
    for one in (batch, older, batch.slice(1, 2), batch.slice(0, 0)):
        assert ledger.from_batch(one) == [ledger.to_entry(each) for each in one.to_pylist()]
    (entry,) = ledger.from_batch(batch.slice(2, 1))
    assert (entry.left_out, entry.moved, entry.deleted_by) == ("", 0, "")
    assert entry.state is LedgerState.RETIRED
