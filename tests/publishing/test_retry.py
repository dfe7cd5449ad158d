"""Rejects whose reason may pass are tried again, and only those, and not for ever."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill.jobs.planning.listing import Listing, plan_for
from clipmill.jobs.publishing import retry
from clipmill.jobs.publishing.retry import TRIES, Retry
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import REJECTS
from clipmill.schemas.job.config import JobFile, Storage
from clipmill.schemas.unit.rejects import Reason
from tests.committed import make_tables, unit
from tests.tables import ledger_entry

PASSING = {Reason.NOT_FOUND, Reason.FORBIDDEN, Reason.TIMED_OUT, Reason.KILLED_WORKER}


def reject(tables: Tables, unit_id: str, reason: str, uri: str, *, run: str = "test", sample: str = "x") -> None:
    row = {"id": sample, "uri": uri, "reason": reason, "detail": "", "unit_id": unit_id, "run": run, "attempt": 1}
    row |= {"fingerprint": "0" * 16, "table_id": tables.id()}
    tables.append("rejects", pa.Table.from_pylist([row], schema=REJECTS))


def enter(tables: Tables, unit_id: str, run: str = "test") -> None:
    entry = replace(
        ledger_entry(unit_id, f"file:///{unit_id}.tar", form="webdataset", rows=1), run=run, seen=2, rejected=1
    )
    ledger.append(tables, [entry])


def again(tables: Tables) -> set[str]:
    return set(Retry(tables, Storage())(ledger.read_ledger(tables)))


@pytest.mark.parametrize("reason", sorted(Reason))
def test_only_reasons_that_can_pass(tmp_path: Path, reason: str) -> None:
    tables = make_tables(tmp_path)
    enter(tables, "a1")
    (tmp_path / "there.jpg").write_bytes(b"x")
    reject(tables, "a1", reason, f"{tmp_path}/there.jpg")
    assert again(tables) == ({"a1"} if reason in PASSING else set())


def test_a_picture_that_is_still_missing_is_left_alone_and_a_reject_that_does_not_count_too(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    enter(tables, "a1")
    reject(tables, "a1", "not_found", f"{tmp_path}/later.jpg")
    reject(tables, "a1", "timed_out", f"{tmp_path}/x.jpg", run="an-older-attempt")
    assert again(tables) == set()
    (tmp_path / "later.jpg").write_bytes(b"x")
    assert again(tables) == {"a1"}


def test_a_picture_behind_more_missing_ones_than_a_night_asks_for_has_its_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_ASKED", 3)
    tables = make_tables(tmp_path)
    for unit_id, name in [*((f"a{i}", f"gone{i}.jpg") for i in range(9)), ("b1", "there.jpg")]:
        enter(tables, unit_id)
        reject(tables, unit_id, "not_found", f"{tmp_path}/{name}")
    (tmp_path / "there.jpg").write_bytes(b"x")
    night = Retry(tables, Storage())
    first = night(ledger.read_ledger(tables))
    assert night(ledger.read_ledger(tables)) == first
    assert len(night._answers) == 3
    assert any(again(tables) == {"b1"} for _ in range(100))


def test_what_kills_its_worker_every_night_is_given_up(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    found = []
    for night in range(TRIES + 1):
        enter(tables, "a1", run=f"n{night}")
        reject(tables, "a1", "killed_worker", "file:///a.jpg", run=f"n{night}")
        found.append(again(tables))
    assert found == [{"a1"}] * (TRIES - 1) + [set()] * 2


def test_the_unit_is_planned_again_and_replaces_itself(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    enter(tables, "a1")
    job = JobFile.model_validate(
        {"table": f"{tmp_path}/db/images", "source": {"format": "webdataset", "uri": "/b/*.tar"}}
    )
    listing = Listing(units=(unit("a1", "file:///a1.tar"),), left_out={})
    latest = ledger.read_ledger(tables)
    assert not plan_for(job, tables, listing, latest).todo
    plan = plan_for(job, tables, listing, latest, frozenset({"a1"}))
    assert [one.unit_id for one in plan.todo] == ["a1"]
    assert [(group.old, group.new) for group in plan.replacements] == [(frozenset({"a1"}), frozenset({"a1"}))]
