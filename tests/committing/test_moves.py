"""Random lives of a bucket: objects are renamed, copied, deleted, written again. Rows follow what moved; what is merely
gone keeps its rows; a copy is a copy. After each run: nothing twice, every unit balanced."""

import hashlib
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import STEPS, Committer, no_hook
from clipmill.jobs.committing.moves import NOTHING, Moves, gone_from
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, Outcome, Receipt
from clipmill.schemas.unit.units import WorkUnit
from tests.committed import NEVER, alias, killer, make_tables, mortal, receipt, unit
from tests.examples import examples
from tests.planning.test_plan import committed, ledger_of

PLACES, CONTENTS = "pqrs", "ABC"


@dataclass
class World:
    """A bucket of objects, each one unit of two samples whose ids are URIs, and the table of it.

    `bucket`: place -> (content, etag); `told`: what the table should hold, place and content of every unit.
    """

    tables: Tables
    bucket: dict[str, tuple[str, str]] = field(default_factory=dict)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    writes: int = 0
    runs: int = 0

    def put(self, place: str, content: str) -> None:
        """As an upload in parts does, which gives another etag each time."""
        self.writes += 1
        self.bucket[place] = (content, f"{content}-{self.writes}")

    def units(self) -> list[WorkUnit]:
        return [
            unit(hashlib.sha256(f"{place} {etag}".encode()).hexdigest()[:24], f"s3://b/{place}.tar", etag=etag)
            for place, (_, etag) in sorted(self.bucket.items())
        ]

    def is_gone(self, entry: LedgerEntry) -> bool:
        return place_of(entry) not in self.bucket

    def work(self, one: WorkUnit, run: str, known: dict[str, str]) -> Receipt:
        content = f"hash-{self.bucket[place_of(one)][0]}"
        if content in known:
            return alias(one, run, known[content], content)
        made = receipt(self.tables, run, one.unit_id, [f"{one.uri}#{content}.{n}" for n in range(2)], bad=1, of=one)
        return replace(made, content_hash=content)

    def run(self, *, die_at: tuple[str, int] | None = None) -> Plan:
        self.runs += 1
        with mortal(self.tables, f"run{self.runs}") as lease:
            latest, _ = heal.heal(self.tables, Committer(self.tables, lease))
            plan = make_plan(self.units(), latest)
            committer = Committer(self.tables, lease, hook=killer(*die_at) if die_at else no_hook)
            collector = Collector(committer, plan, NEVER, is_gone=self.is_gone)
            for number, one in enumerate(plan.todo):
                collector._take(self.work(one, lease.run, plan.known.get(one.unit_id, {})))
                if number % 2:
                    collector._commit()
            collector._commit()
        return plan

    def tell(self) -> None:
        """What a run that is left alone makes of it, place by place."""
        listed = {(place, content) for place, (content, _) in self.bucket.items()}
        came = Counter(content for place, content in listed if not self.told[place, content])
        for place, content in sorted(self.told):
            if place in self.bucket:
                if (place, content) not in listed:
                    del self.told[place, content]  # written again
            elif came[content]:
                came[content] -= 1
                del self.told[place, content]  # moved; where two were gone, either may be the one
        self.told.update(listed - set(self.told))

    def check(self) -> None:
        assert verify(f"{self.tables.database}/{self.tables.name}", Storage()).problems == []
        found = Counter(self.tables.open().to_table(columns=["id"])["id"].to_pylist())
        assert max(found.values(), default=1) == 1
        units = {(i[len("s3://b/") :].partition(".")[0], i.partition("#hash-")[2][0]) for i in found}
        live = {(place, content) for place, content in self.told if place in self.bucket}
        assert {one for one in units if one[0] in self.bucket} == live
        gone = Counter(content for place, content in units if place not in self.bucket)
        assert gone == Counter(content for place, content in self.told if place not in self.bucket)
        assert len(found) == 2 * len(units)


def place_of(named: Any) -> str:
    return str(named.uri)[len("s3://b/") : -len(".tar")]


put = st.tuples(st.just("put"), st.sampled_from(PLACES), st.sampled_from(CONTENTS))
copy = st.tuples(st.just("copy"), st.sampled_from(PLACES), st.sampled_from(PLACES))
move = st.tuples(st.just("move"), st.sampled_from(PLACES), st.sampled_from(PLACES))
delete = st.tuples(st.just("delete"), st.sampled_from(PLACES))
again = st.tuples(st.just("again"), st.sampled_from(PLACES))
run = st.tuples(st.just("run"))
crash = st.tuples(st.just("crash"), st.sampled_from(STEPS), st.integers(0, 1))
lives = st.lists(st.one_of(put, copy, move, move, delete, again, run, run, crash), min_size=3, max_size=9)
quick = examples(8, *HealthCheck)


@example([("put", "p", "A"), ("run",), ("move", "p", "q"), ("run",), ("move", "q", "p"), ("run",)])  # there and back
@example([("put", "p", "A"), ("run",), ("copy", "p", "q"), ("run",), ("delete", "p"), ("run",)])  # a copy; then gone
@example(
    [("put", "p", "A"), ("put", "q", "B"), ("run",), ("move", "p", "q"), ("crash", "after_rows", 0)]
)  # onto another
@example([("put", "p", "A"), ("run",), ("again", "p"), ("run",), ("move", "p", "q"), ("run",)])  # an alias moves
@quick
@given(lives)
def test_rows_follow_what_moved_and_stay_with_what_is_gone(life: list[tuple[Any, ...]]) -> None:
    live_through(life)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@examples(150, *HealthCheck)
@given(lives)
def test_the_same_in_many_more_lives(life: list[tuple[Any, ...]]) -> None:
    live_through(life)


def live_through(life: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(make_tables(folder))
        for kind, *details in [*life, ("run",)]:
            if kind in ("run", "crash"):
                if kind == "crash":
                    world.run(die_at=(details[0], details[1]))
                world.tell()
                world.run()
                world.check()
                assert world.run().todo == ()
            elif kind == "put":
                world.put(details[0], details[1])
            elif details[0] in world.bucket:
                content, etag = world.bucket[details[0]]
                if kind == "again":
                    world.put(details[0], content)
                elif kind == "delete" or details[0] != details[1]:
                    if kind != "copy":
                        del world.bucket[details[0]]
                    if kind != "delete":
                        world.bucket[details[1]] = (content, etag)


def test_a_plan_says_what_seems_to_have_moved() -> None:
    old = committed("old", "s3://b/1.tar", content_hash="h")
    stays = committed("stays", "s3://b/2.tar", content_hash="g", etag="other")
    plan = make_plan([unit("new", "s3://b/x/1.tar")], ledger_of(old, stays))
    assert plan.moved == {"new": "old"}
    assert (plan.new, plan.changed, [e.unit_id for e in plan.gone]) == (0, 0, ["old", "stays"])
    assert plan.moves == {"new": old}


def test_two_copies_of_one_gone_unit_are_one_move_and_one_new_unit() -> None:
    plan = make_plan(
        [unit("a", "s3://b/a.tar"), unit("b", "s3://b/b.tar")], ledger_of(committed("old", "s3://b/1.tar"))
    )
    assert (plan.moved, plan.new) == ({"a": "old"}, 1)


def test_another_slice_of_an_equal_object_is_no_move() -> None:
    old = committed("old", "s3://b/1.tar", start="0", end="512")
    plan = make_plan([unit("new", "s3://b/2.tar", start="512", end="1024")], ledger_of(old))
    assert plan.moved == {}


def test_a_unit_without_a_sample_takes_no_place() -> None:
    moves = Moves([committed("old", "s3://b/1.tar", content_hash=NOTHING)], {"new": "old"}, lambda _: True)
    done = Receipt(unit_id="new", run="r", attempt=1, outcome=Outcome.DONE, content_hash=NOTHING)
    assert moves.left_by(done) is None


def test_what_is_still_there_has_not_moved(tmp_path: Path) -> None:
    """The job's pattern may have changed: the objects it named before are still in the bucket."""
    is_gone = gone_from(Storage())
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "m.jpg").write_bytes(b"")
    assert not is_gone(committed("u", str(tmp_path / "a.tar")))
    assert is_gone(committed("u", str(tmp_path / "b.tar")))
    assert is_gone(committed("u", str(tmp_path / "no" / "b.tar")))
    slice_of = {"format": "files", "uri": f"{tmp_path}/f/"}
    assert not is_gone(replace(committed("u", ""), **slice_of, start="", end="z"))
    assert is_gone(replace(committed("u", ""), **slice_of, start="n", end="z"))
    assert is_gone(replace(committed("u", ""), format="files", uri=f"{tmp_path}/g/", start="", end="z"))

    is_gone = gone_from(Storage(endpoint_url="http://127.0.0.1:9"))
    assert not is_gone(committed("u", "s3://b/a.tar")), "a store that does not answer"
