"""A verify that cannot fail is worthless: every kind of damage is planted, and has to be seen and named."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import MAX_NAMED, Report, verify
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
from tests.committed import DIM, entry, make_tables, receipt, rows_table, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two units: three rows and a reject, two rows."""
    made = make_tables(tmp_path)
    committer = Committer(made, take_lease(made, "a"))
    for name, names, bad in (("u1", ["1", "2", "3"], 1), ("u2", ["4", "5"], 0)):
        done = receipt(made, "a", name, names, bad=bad)
        one = replace(entry(name, "a", done.written), seen=done.seen, rejected=bad)
        committer.commit([one], done.fragments, reject_fragments=done.reject_fragments)
    return made


@pytest.mark.parametrize("folder", ["a#b", "50% é", "a%23b", "a b%20c"])
def test_a_folder_of_any_name_holds_the_table_and_is_looked_into(tmp_path: Path, folder: str) -> None:
    made = make_tables(tmp_path / folder.replace("%", "%25").replace("#", "%23"))
    done = receipt(made, "a", "u1", ["1", "2"], bad=1)
    one = replace(entry("u1", "a", done.written), seen=done.seen, rejected=1)
    Committer(made, take_lease(made, "a")).commit([one], done.fragments, reject_fragments=done.reject_fragments)
    assert not check(made).problems
    assert made.uri().startswith(f"{tmp_path}/{folder}/")
    next((tmp_path / folder / "db" / "images.lance" / "data").iterdir()).unlink()
    assert [one for one in check(made).problems if "is gone" in one]


def check(tables: Tables) -> Report:
    return verify(f"{tables.database}/{tables.name}", Storage())


def append(tables: Tables, rows: pa.Table) -> None:
    """What any client of Lance can do."""
    lance.write_dataset(rows, tables.rows, mode="append")


def enter(tables: Tables, **changes: object) -> None:
    """A later ledger entry of u1."""
    now: LedgerEntry = ledger.read_ledger(tables)["u1"]
    ledger.append(tables, [replace(now, table_version=now.table_version + 1, **changes)])  # type: ignore[arg-type]


def a_row(tables: Tables, name: str, unit_id: str, vector: list[float], **values: object) -> pa.Table:
    row = rows_table(tables, unit_id, [name])
    parts = {"vector": pa.array([vector], pa.list_(pa.float16(), DIM)), **values}
    for column, value in parts.items():
        index = row.schema.get_field_index(column)
        row = row.set_column(index, row.schema.field(index), value)
    return row


def test_a_sound_table_has_no_problems(tables: Tables) -> None:
    report = check(tables)
    assert report.problems == []
    assert (report.units, report.seen, report.rows, report.rejects) == (2, 6, 5, 1)


def row_deleted(tables: Tables) -> None:
    tables.open().delete("id = '2'")


def row_duplicated(tables: Tables) -> None:
    append(tables, rows_table(tables, "u1", ["2"]))


def unit_unknown(tables: Tables) -> None:
    append(tables, rows_table(tables, "stranger", ["77"]))


def reject_lost(tables: Tables) -> None:
    tables.open("rejects").delete("unit_id = 'u1'")


def reject_invented(tables: Tables) -> None:
    old = tables.open("rejects").to_table()
    tables.append("rejects", old)


def reject_renamed(tables: Tables) -> None:
    tables.open("rejects").update({"reason": "'just_because'"})


def runs_lost(tables: Tables) -> None:
    shutil.rmtree(tables.uri("runs"))


def ledger_unbalanced(tables: Tables) -> None:
    enter(tables, seen=9)


def ledger_of_another_attempt(tables: Tables) -> None:
    enter(tables, attempt=2)


def ledger_forgets_a_unit(tables: Tables) -> None:
    enter(tables, state=LedgerState.RETIRED)


def ledger_lost(tables: Tables) -> None:
    tables.open("units").delete("unit_id = 'u2'")


def vector_stretched(tables: Tables) -> None:
    enter(tables, seen=5, written=4)
    append(tables, a_row(tables, "8", "u1", [1.0, 1.0, 0.0, 0.0]))


def vector_not_a_number(tables: Tables) -> None:
    enter(tables, seen=5, written=4)
    append(tables, a_row(tables, "8", "u1", [float("nan"), 0.0, 0.0, 0.0]))


def caption_vector_zero(tables: Tables) -> None:
    enter(tables, seen=5, written=4)
    zero = pa.array([[0.0] * DIM], pa.list_(pa.float16(), DIM))
    append(tables, a_row(tables, "8", "u1", [1.0, 0.0, 0.0, 0.0], caption_vector=zero))


def tags_not_parallel(tables: Tables) -> None:
    enter(tables, seen=5, written=4)
    tags, scores = pa.array([["cat", "dog"]]), pa.array([[0.5]], pa.list_(pa.float32()))
    append(tables, a_row(tables, "8", "u1", [1.0, 0.0, 0.0, 0.0], tags=tags, tag_scores=scores))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (row_deleted, "unit u1 (file:///u1.tar): the ledger says 3 rows, the table has 2"),
        (row_duplicated, "id 2 is there 2 times"),
        (row_duplicated, "the ledger says 3 rows, the table has 4"),
        (unit_unknown, "1 row of unit stranger, which the ledger does not have"),
        (reject_lost, "the ledger says 1 reject, 0 are named"),
        (reject_invented, "the ledger says 1 reject, 2 are named"),
        (reject_renamed, "rejects of reason 'just_because', which is none of the closed list"),
        (runs_lost, "__runs is gone"),
        (ledger_unbalanced, "seen 9 != written 3 + rejected 1"),
        (ledger_of_another_attempt, "the ledger says 1 reject, 0 are named"),
        (ledger_forgets_a_unit, "3 rows of unit u1, which the ledger does not have"),
        (ledger_lost, "2 rows of unit u2, which the ledger does not have"),
        (vector_stretched, "row 8: vector is not of unit length"),
        (vector_not_a_number, "row 8: vector is not of unit length"),
        (caption_vector_zero, "row 8: caption_vector is not of unit length"),
        (caption_vector_zero, "row 8: of caption, its vector and its score there is only caption_vector"),
        (tags_not_parallel, "row 8: it has tags, the table has no vocabulary"),
    ],
)
def test_planted_damage_is_seen_and_named(tables: Tables, damage: Callable[[Tables], None], said: str) -> None:
    damage(tables)
    problems = check(tables).problems
    assert any(said in problem for problem in problems), problems


def test_damage_to_one_row_is_not_blamed_on_others(tables: Tables) -> None:
    vector_stretched(tables)
    assert check(tables).problems == ["row 8: vector is not of unit length"]


def test_many_problems_of_a_kind_are_counted(tables: Tables) -> None:
    append(tables, rows_table(tables, "u1", [f"x{n}" for n in range(MAX_NAMED + 7)] * 2))
    problems = check(tables).problems
    assert "... and 7 more: ids" in problems
    assert sum("times" in problem for problem in problems) == MAX_NAMED


def test_a_report_prints_as_json(tables: Tables) -> None:
    vector_not_a_number(tables)
    out = io.StringIO()
    json.dump(asdict(check(tables)), out, allow_nan=False)
    assert "not of unit length" in out.getvalue()
