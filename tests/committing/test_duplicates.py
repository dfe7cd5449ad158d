"""One id, one row: within a commit, against the table, beside units that leave; and the loser's turn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.duplicates import Deduplicator, can_repeat, units_to_redo
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Source
from clipmill.schemas.unit.receipts import LedgerState, Receipt
from tests.committed import entry, ids, make_tables, receipt, take_lease
from tests.conftest import S3

ODD = ["it's", "''", "ключ/картинка.jpg", "猫#1", "100%", 'say "no"', "a\\b", "ü\u0308", "id; --", " leading", "\n"]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


class Desk:
    """Deduplicates and commits receipts as the collector does."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.committer = Committer(tables, take_lease(tables, "a"))
        self.deduplicate = Deduplicator(tables, int(tables.open().version), "0" * 16)

    def commit(self, receipts: list[Receipt], leaving: Sequence[str] = ()) -> list[Receipt]:
        made = self.deduplicate(receipts, list(leaving)).receipts
        retired = [entry(name, "a", 0, state=LedgerState.RETIRED) for name in leaving]
        entries = []
        for r in made:
            r.check_balance()
            one = entry(r.unit_id, "a", r.written)
            counts = {"seen": r.seen, "written": r.written, "rejected": r.num_rejected, "attempt": r.attempt}
            entries.append(type(one)(**{**{f: getattr(one, f) for f in one.__dataclass_fields__}, **counts}))
        self.committer.commit(
            [*retired, *entries],
            [f for r in made for f in r.fragments],
            reject_fragments=[f for r in made for f in r.reject_fragments],
            remove_units=leaving,
        )
        report = verify(f"{self.tables.database}/{self.tables.name}", self.tables.storage)
        assert report.problems == [], report.problems
        return made

    def offer(self, unit_id: str, names: Sequence[str], *, attempt: int = 1) -> Receipt:
        return receipt(self.tables, "a", unit_id, names, attempt=attempt)

    def losers(self) -> dict[str, str]:
        """id -> detail of the duplicates that count."""
        found: dict[str, str] = {}
        for batch in counted_rejects(self.tables, ["id", "detail"], "reason = 'duplicate_id'"):
            found.update(zip(batch["id"].to_pylist(), batch["detail"].to_pylist(), strict=True))
        return found


def to_redo(tables: Tables) -> frozenset[str]:
    return units_to_redo(tables, ledger.read_ledger(tables), [], lambda _: False)


@pytest.fixture
def desk(tables: Tables) -> Desk:
    return Desk(tables)


def test_the_later_of_two_in_one_commit_loses(desk: Desk) -> None:
    first, second = desk.commit([desk.offer("u1", ["1", "2"]), desk.offer("u2", ["2", "3"])])
    assert ids(desk.tables) == ["1", "2", "3"]
    assert (first.written, second.written, second.rejected) == (2, 1, {"duplicate_id": 1})
    assert desk.losers() == {"2": "the id belongs to file:///u1.tar#2"}


def test_the_later_of_two_in_one_unit_loses(desk: Desk) -> None:
    (only,) = desk.commit([desk.offer("u1", ["1", "1", "1", "2"])])
    assert ids(desk.tables) == ["1", "2"]
    assert (only.seen, only.written, only.rejected) == (4, 2, {"duplicate_id": 2})


def test_what_rows_have_is_counted_of_those_that_stay(desk: Desk) -> None:
    all_of_them = replace(desk.offer("u1", ["1", "1", "1", "2"]), filled={"width": 4, "caption": 4})
    none = replace(desk.offer("u2", ["1", "2"]), filled={"width": 2})
    first, second = desk.commit([all_of_them, none])
    captions = desk.tables.open().count_rows("caption IS NOT NULL")
    assert (first.written, first.filled) == (2, {"width": 2, "caption": captions})
    assert (second.written, second.filled) == (0, {"width": 0})


def test_the_same_in_an_object_store(s3_by_options: S3) -> None:
    """Every read and write of the rewritten unit needs the store's endpoint."""
    desk = Desk(make_tables(f"{s3_by_options.uri}/lake", storage=s3_by_options.storage))
    desk.commit([desk.offer("u1", ["1", "2"])])
    first, second = desk.commit([desk.offer("u2", ["2", "3"]), desk.offer("u3", ["4", "4"])])
    assert (first.written, second.written) == (1, 1)
    assert ids(desk.tables) == ["1", "2", "3", "4"]
    assert set(desk.losers()) == {"2", "4"}


def test_a_row_of_the_table_wins(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ["1", "2"])])
    (late,) = desk.commit([desk.offer("u2", ["3", "1"])])
    assert ids(desk.tables) == ["1", "2", "3"]
    assert late.written == 1
    assert desk.losers() == {"1": "the id belongs to file:///u1.tar#1"}


def test_a_unit_of_nothing_but_duplicates_has_no_fragment(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ["1", "2"])])
    (late,) = desk.commit([desk.offer("u2", ["2", "1"])])
    assert (late.fragments, late.written, late.seen) == ((), 0, 2)
    assert ids(desk.tables) == ["1", "2"]
    assert set(ledger.live(ledger.read_ledger(desk.tables))) == {"u1", "u2"}


def test_the_rows_of_a_unit_that_leaves_take_no_id(desk: Desk) -> None:
    """The replacement of a tar has the same ids as the tar had."""
    desk.commit([desk.offer("old", ["1", "2"])])
    (new,) = desk.commit([desk.offer("new", ["1", "2", "3"])], leaving=["old"])
    assert (new.written, new.num_rejected) == (3, 0)
    assert ids(desk.tables) == ["1", "2", "3"]


def test_what_was_rejected_before_stays_counted(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ["1"])])
    (mixed,) = desk.commit([receipt(desk.tables, "a", "u2", ["1", "2"], bad=2)])
    assert mixed.rejected == {"corrupt": 2, "duplicate_id": 1}
    assert (mixed.seen, mixed.written) == (4, 1)


def test_ids_are_data_and_never_sql(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ODD)])
    (late,) = desk.commit([desk.offer("u2", [*ODD, "fresh"])])
    assert ids(desk.tables) == sorted([*ODD, "fresh"])
    assert late.rejected == {"duplicate_id": len(ODD)}
    assert set(desk.losers()) == set(ODD)


def test_the_same_through_an_id_index(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ODD)])
    desk.tables.open().create_scalar_index("id", "BTREE")
    desk.commit([desk.offer("u2", ["x1"])])  # not in the index yet
    (late,) = desk.commit([desk.offer("u3", [*ODD, "x1", "x2"])])
    assert (late.written, late.num_rejected) == (1, len(ODD) + 1)


def test_vectors_and_values_of_the_rows_that_stay_are_their_own(desk: Desk) -> None:
    """Rows are taken out of a written fragment by position: the rest must not shift."""
    desk.commit([desk.offer("u1", ["b", "d"])])
    desk.commit([desk.offer("u2", ["a", "b", "c", "d", "e"])])
    found = desk.tables.open().to_table(columns=["id", "uri"], filter="unit_id = 'u2'").to_pylist()
    assert [(r["id"], r["uri"]) for r in found] == [(x, f"file:///u2.tar#{x}") for x in "ace"]


def test_the_losers_turn_comes_when_the_winner_has_left(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ["1", "it's"])])
    desk.commit([desk.offer("u2", ["1", "it's", "2"])])
    tables = desk.tables
    assert to_redo(tables) == frozenset()
    desk.commit([desk.offer("u3", ["9"])], leaving=["u1"])
    assert to_redo(tables) == {"u2"}
    (again,) = desk.commit([desk.offer("u2", ["1", "it's", "2"], attempt=2)], leaving=["u2"])
    assert (again.written, again.num_rejected) == (3, 0)
    assert to_redo(tables) == frozenset()
    assert desk.losers() == {}, "rejects of the earlier attempt no longer count"
    assert ids(tables) == ["1", "2", "9", "it's"]


def test_a_tie_inside_one_unit_is_not_done_again_for_ever(desk: Desk) -> None:
    desk.commit([desk.offer("u1", ["1", "1"])])
    assert to_redo(desk.tables) == frozenset()


def test_only_ids_that_can_repeat_are_looked_up() -> None:
    def source(**changes: str) -> Source:
        return Source.model_validate({"format": "webdataset", "uri": "s3://b/x.tar", **changes})

    assert not can_repeat(source())
    assert not can_repeat(source(format="files"))
    assert can_repeat(source(id="content"))
    assert can_repeat(source(id="key"))
    assert can_repeat(source(format="manifest"))
