"""A month of random changes: after each night the table holds what one built from scratch would, whatever died within.

The worker is played by `work`; planning, review, commits, moves, healing and the tables are the real ones.
"""

import random
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import STEPS, Committer
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.publishing import sync as module
from clipmill.jobs.publishing.sync import Sync, TooMuchGone
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Commit, JobFile
from clipmill.schemas.unit.receipts import LedgerEntry, Outcome, Receipt
from clipmill.schemas.unit.units import WorkUnit
from tests.committed import Killed, ids, make_tables, receipt, take_lease, unit

OFTEN = Commit.model_validate({"every_rows": 4, "every_s": 3600})


@dataclass
class Bucket:
    """uri -> (etag, pictures). An etag may change without the pictures."""

    random: random.Random
    objects: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    made: int = 0

    def _new(self) -> tuple[str, tuple[str, ...]]:
        self.made += 1
        return f"e{self.made}", tuple(f"{self.made}-{n}" for n in range(self.random.randint(1, 4)))

    def change(self) -> None:
        some = sorted(self.objects)
        what = self.random.choice(["add", "add", "replace", "again", "delete", "rename"])
        if what == "add" or not some:
            self.objects[f"file:///b/{self.made}.tar"] = self._new()
            return
        uri = self.random.choice(some)
        if what == "replace":
            self.objects[uri] = self._new()
        elif what == "again":
            self.made += 1
            self.objects[uri] = (f"e{self.made}", self.objects[uri][1])
        else:
            old = self.objects.pop(uri)
            if what == "rename":
                self.made += 1
                keeps = self.random.random() < 0.5  # the etag of a copy in parts is another one
                self.objects[f"file:///b/r{self.made}.tar"] = old if keeps else (f"e{self.made}", old[1])

    def units(self) -> list[WorkUnit]:
        found = sorted(self.objects.items())
        return [unit(f"u{etag}x{zlib.crc32(uri.encode())}", uri, etag=etag) for uri, (etag, _) in found]

    def ids(self) -> list[str]:
        return sorted(f"{uri}#{picture}" for uri, (_, pictures) in self.objects.items() for picture in pictures)


def work(tables: Tables, run: str, bucket: Bucket, todo: WorkUnit, plan: Plan) -> Receipt:
    pictures = bucket.objects[todo.uri][1]
    content = "+".join(pictures)
    same = plan.known.get(todo.unit_id, {}).get(content)
    if same:
        return Receipt(
            unit_id=todo.unit_id, run=run, attempt=1, outcome=Outcome.ALIAS, content_hash=content, alias_of=same
        )
    made = receipt(tables, run, todo.unit_id, [f"{todo.uri}#{picture}" for picture in pictures], of=todo)
    return replace(made, content_hash=content)


def one_night(tables: Tables, job: JobFile, bucket: Bucket, run: str, die_at: int) -> None:
    """Survey → plan → review → commits. Dies at so many steps of commits, if there are as many."""
    lease = take_lease(tables, run)
    steps = 0

    def hook(step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            raise Killed

    try:
        latest, _ = heal.heal(tables, Committer(tables, lease))
        sync = Sync(job, tables)
        plan = sync.review(make_plan(bucket.units(), latest))

        def is_gone(entry: LedgerEntry) -> bool:
            return entry.uri not in bucket.objects

        collector = Collector(Committer(tables, lease, hook=hook), plan, OFTEN, is_gone=is_gone)
        collector.start()
        for todo in plan.todo:
            collector.offer(work(tables, run, bucket, todo, plan))
        collector.close()
    finally:
        lease.release()


@pytest.mark.parametrize("seed", [pytest.param(n, marks=pytest.mark.slow) if n > 1 else n for n in range(6)])
def test_after_each_night_the_table_is_what_one_from_scratch_is(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables(tmp_path)
    chance = random.Random(seed)
    bucket = Bucket(chance)
    monkeypatch.setattr(module, "gone_from", lambda storage: lambda entry: entry.uri not in bucket.objects)
    job = JobFile.model_validate(
        {
            "table": f"{tmp_path}/db/images",
            "source": {"format": "webdataset", "uri": "/b/*.tar"},
            "nightly": {"gone": "delete", "max_gone": 1.0},
        }
    )
    killed = 0
    for night in range(12):
        for _ in range(chance.randint(0, 4)):
            bucket.change()
        for attempt in range(5):
            try:
                one_night(tables, job, bucket, f"n{night}a{attempt}", chance.randint(1, 8) if attempt < 2 else 0)
                break
            except Killed:
                killed += 1
        assert ids(tables) == bucket.ids(), f"night {night} of seed {seed}"
        alive = [e for e in ledger.live(ledger.read_ledger(tables)).values() if not e.alias_of]
        assert sum(e.accounted for e in alive) == len(bucket.ids())
    assert killed > 1


def test_a_night_that_lost_too_much_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables(tmp_path)
    bucket = Bucket(random.Random(1))
    monkeypatch.setattr(module, "gone_from", lambda storage: lambda entry: entry.uri not in bucket.objects)
    settings = {"table": f"{tmp_path}/db/images", "source": {"format": "webdataset", "uri": "/b/*.tar"}}
    job = JobFile.model_validate({**settings, "nightly": {"gone": "delete"}})
    for _ in range(8):
        bucket.objects[f"file:///b/{bucket.made}.tar"] = bucket._new()
    one_night(tables, job, bucket, "first", 0)
    before, there = int(tables.open().version), ids(tables)
    everything, bucket.objects = bucket.objects, dict(sorted(bucket.objects.items())[:3])
    with pytest.raises(TooMuchGone, match="samples are gone from the source"):
        one_night(tables, job, bucket, "second", 0)
    assert ids(tables) == there
    assert int(tables.open().version) <= before + 1  # the fence of the lease
    bucket.objects = everything
    monkeypatch.setattr(module, "gone_from", lambda storage: lambda entry: False)  # the store is away
    bucket.objects.pop(min(bucket.objects))
    one_night(
        tables, JobFile.model_validate({**settings, "nightly": {"gone": "delete", "max_gone": 1.0}}), bucket, "c", 0
    )
    assert ids(tables) == there


def test_what_a_kill_had_deleted_already_is_not_deleted_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is made by the ledger as a kill left it, and again once that is healed."""
    tables = make_tables(tmp_path)
    bucket = Bucket(random.Random(1))
    monkeypatch.setattr(module, "gone_from", lambda storage: lambda entry: entry.uri not in bucket.objects)
    settings = {"table": f"{tmp_path}/db/images", "source": {"format": "webdataset", "uri": "/b/*.tar"}}
    job = JobFile.model_validate({**settings, "nightly": {"gone": "delete", "max_gone": 1.0}})
    for _ in range(4):
        bucket.objects[f"file:///b/{bucket.made}.tar"] = bucket._new()
    one_night(tables, job, bucket, "first", 0)
    bucket.objects.pop(min(bucket.objects))
    before = ledger.live(ledger.read_ledger(tables))
    with pytest.raises(Killed):
        one_night(tables, job, bucket, "killed", STEPS.index("after_rows") + 1)
    sync = Sync(job, tables)
    sync.review(make_plan(bucket.units(), ledger.read_ledger(tables)))
    assert sync.deleted_samples > 0
    lease = take_lease(tables, "healing")
    latest, _ = heal.heal(tables, Committer(tables, lease))
    lease.release()
    assert len(ledger.live(latest)) < len(before)
    sync.review(make_plan(bucket.units(), latest))
    assert (sync.gone_samples, sync.deleted_samples, sync.deleted_rows) == (0, 0, 0)
