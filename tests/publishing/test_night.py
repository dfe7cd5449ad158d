"""Nights are remembered in `__runs` and read back, those of another table or release left out."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from clipmill.jobs.planning.jobfile import redacted
from clipmill.jobs.publishing.night import Gate, Night, nights, remember, webhook_address
from clipmill.jobs.publishing.nightly import _cost
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import RUNS
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.nightly import Nightly
from tests.tables import TableOptions, make_table


@pytest.fixture
def tables(tmp_path):
    found = Tables.at(make_table(tmp_path, TableOptions(rows=5)))
    found.ensure_side_tables()
    return found


def test_a_nights_cost_is_of_the_hours_that_each_worker_was_there():
    """Eight at once for a moment of an hour: they are not paid for eight hours."""
    source = {"format": "files", "uri": "/x/"}
    job = JobFile.model_validate(
        {"table": "/t/t", "source": source, "workers": {"gpus": 0.5}, "plan": {"price_per_gpu_hour": 3.0}}
    )
    ran = Summary(run="r", table="t", workers=8, worker_s=7200.0, seconds=3600.0, device="cuda")
    assert _cost(ran, job) == (2.0, 3.0)
    assert _cost(dataclasses.replace(ran, device="cpu"), job) == (2.0, None)
    assert _cost(dataclasses.replace(ran, run=""), job) == (None, None)


def night(run: str, **more: object) -> Night:
    return Night(run=run, table="t", at="2026-11-28T04:00:00+00:00", **more)


def test_nights_come_back_as_they_were_and_oldest_first(tables):
    gate = Gate(name="coverage", passed=False, value=0.9, threshold=0.99, sentence="coverage 0.9 is below 0.99")
    made = [night(str(n), gates=(gate,), rejects={"corrupt": n}) for n in range(4)]
    for one in made:
        remember(tables, one)
    assert nights(tables) == made
    assert nights(tables, last=2) == made[2:]
    assert made[0].refused == (gate,)


def test_a_clock_that_was_an_hour_ahead_makes_no_night_the_last(tables):
    made = [night("ahead"), night("after")]
    for one, hours in zip(made, (1, 0), strict=True):
        at = datetime.now(UTC) + timedelta(hours=hours)
        row = {"run": one.run, "command": "nightly", "event": "night", "at": at, "table_id": tables.id()}
        row["detail"] = json.dumps(dataclasses.asdict(one))
        tables.append("runs", pa.Table.from_pylist([row], schema=RUNS))
    assert nights(tables) == made
    assert nights(tables, last=1) == made[1:]


def test_nights_of_another_table_do_not_count_and_unknown_fields_are_passed_over(tables):
    raw = {**dataclasses.asdict(night("new")), "of_the_future": 1}
    tables.log_run("old", "nightly", "night", json.dumps(raw), table_id="abc")
    assert nights(tables) == []
    tables.log_run("new", "nightly", "night", json.dumps(raw), table_id=tables.id())
    assert nights(tables) == [night("new")]


def test_a_webhook_is_a_secret(monkeypatch):
    secret = "https://hooks.example/T0/B0/very-secret"
    job = JobFile.model_validate(
        {"table": "/d/t", "source": {"format": "files", "uri": "/x/"}, "nightly": {"webhook": secret}}
    )
    assert "very-secret" not in repr(job) + json.dumps(redacted(job))
    assert webhook_address(job.nightly) == secret
    named = Nightly.model_validate({"webhook": "env:HOOK"})
    with pytest.raises(UserError, match="HOOK, which is not set"):
        webhook_address(named)
    monkeypatch.setenv("HOOK", secret)
    assert webhook_address(named) == secret
    assert webhook_address(Nightly()) is None
