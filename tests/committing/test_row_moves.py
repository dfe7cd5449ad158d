"""Random lives of tars whose ids are keys: samples are repacked into other tars, copied, moved, and their places end.
Every row follows its sample to a place that is there; nothing is ever missing or twice, at any version of the table."""

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import STEPS, Committer, no_hook
from clipmill.jobs.committing.duplicates import Deduplicator, units_to_redo
from clipmill.jobs.committing.moves import Gone, unlisted
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import status
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, Receipt
from clipmill.schemas.unit.units import WorkUnit
from tests.committed import NEVER, alias, killer, make_tables, mortal, receipt, unit
from tests.examples import examples

KEYS = "abcdefgh"
Samples = tuple[tuple[str, int], ...]  # key, and which bytes


@dataclass
class World:
    """A bucket of tars, two samples a unit, and the table of it. `replaced`: keys of tars that were written over, which
    their rows leave with."""

    tables: Tables
    bucket: dict[str, tuple[Samples, int]] = field(default_factory=dict)  # place -> samples, etag
    ended: dict[str, tuple[Samples, int]] = field(default_factory=dict)
    came: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    writes: int = 0
    runs: int = 0

    def put(self, samples: Samples, place: str = "") -> None:
        self.writes += 1
        place = place or f"p{self.writes}"
        self.replaced.update(key for key, _ in (self.bucket.get(place) or self.ended.get(place) or ((), 0))[0])
        self.bucket[place] = (samples, self.writes)

    def end(self, place: str) -> Samples:
        self.ended[place] = self.bucket.pop(place)
        return self.ended[place][0]

    def units(self) -> dict[str, tuple[WorkUnit, Samples]]:
        made = {}
        for place, (samples, etag) in sorted(self.bucket.items()):
            for start in range(0, max(1, len(samples)), 2):  # a tar of nothing is a unit too
                name = hashlib.sha256(f"{place} {etag} {start}".encode()).hexdigest()[:24]
                span = {"start": str(start), "end": str(start + 2)}
                one = unit(name, f"s3://b/{place}.tar", etag=str(etag), **span)
                made[name] = (one, samples[start : start + 2])
        return made

    def is_gone(self, entry: LedgerEntry) -> bool:
        return place_of(entry.uri) not in self.bucket

    def plan(self, latest: ledger.Ledger) -> Plan:
        units = [one for one, _ in self.units().values()]
        return make_plan(units, latest, units_to_redo(self.tables, latest, units, self.is_gone))

    def run(self, *, die_at: tuple[str, int] | None = None, each: int = 2) -> None:
        """One driver, which commits after `each` units."""
        self.runs += 1
        with mortal(self.tables, f"run{self.runs}") as lease:
            latest, _ = heal.heal(self.tables, Committer(self.tables, lease))
            plan = self.plan(latest)
            gone = Gone(unlisted(self.units(), latest), self.is_gone, plan.replaced)
            deduplicate = Deduplicator(self.tables, int(self.tables.open().version), "0" * 16, gone)
            committer = Committer(self.tables, lease, hook=killer(*die_at) if die_at else no_hook)
            collector = Collector(committer, plan, NEVER, deduplicate, is_gone=self.is_gone)
            for number, one in enumerate(plan.todo, start=1):
                collector._take(self.work(one, lease.run, plan.known.get(one.unit_id, {})))
                if number % each == 0:
                    collector._commit()
            collector._commit()

    def work(self, one: WorkUnit, run: str, known: dict[str, str]) -> Receipt:
        of, samples = self.units()[one.unit_id]
        content = repr(samples)
        if content in known:
            return alias(one, run, known[content], content)
        names, images = [key for key, _ in samples], [f"{key}{bytes_}" for key, bytes_ in samples]
        made = receipt(self.tables, run, one.unit_id, names, bad=len(names) % 2, of=of, images=images)
        return replace(made, content_hash=content)

    def check(self, *, settled: bool) -> None:
        name = f"{self.tables.database}/{self.tables.name}"
        assert verify(name, Storage()).problems == []
        assert status(name, Storage()).balanced
        entries = ledger.live(ledger.read_ledger(self.tables)).values()
        assert [e for e in entries if e.moved and not e.written] == [], "a unit whose last row moved is retired"
        rows = {row["id"]: row for row in self.tables.open().to_table().to_pylist()}
        assert len(rows) == self.tables.open().count_rows()
        live: dict[str, set[tuple[str, str]]] = {}
        for place, (samples, _) in self.bucket.items():
            for key, bytes_ in samples:
                live.setdefault(key, set()).add((place, xxhash.xxh3_128_hexdigest(f"{key}{bytes_}".encode())))
        self.came.update(live)
        assert self.came - self.replaced <= rows.keys()
        if settled:
            assert live.keys() <= rows.keys()
            for key, row in rows.items():
                here = (place_of(row["uri"].partition("#")[0]), row["image_hash"])
                samples = live.get(key, set())
                assert here in samples or row["image_hash"] not in {hash_ for _, hash_ in samples}
            latest = ledger.read_ledger(self.tables)
            assert (self.plan(latest).todo, heal.needs_healing(self.tables, latest)) == ((), False)

    def check_versions(self) -> None:
        """What any reader saw, at any time."""
        before: set[tuple[str, str]] = set()
        for version in range(2, int(self.tables.open().version) + 1):
            found = self.tables.open(version=version).to_table(columns=["id", "image_hash"]).to_pylist()
            ids = [row["id"] for row in found]
            assert len(set(ids)) == len(ids)
            now = {(row["id"], row["image_hash"]) for row in found}
            assert {one for one in before - now if one[0] not in self.replaced} == set()
            before = now


def place_of(uri: str) -> str:
    return uri[len("s3://b/") : -len(".tar")]


sample = st.tuples(st.sampled_from(KEYS), st.sampled_from((0, 0, 0, 1)))
tars = st.lists(sample, min_size=1, max_size=5, unique_by=lambda one: one[0]).map(tuple)
number = st.integers(0, 7)
steps = st.one_of(
    st.tuples(st.just("put"), tars),
    st.tuples(st.just("over"), number, tars),
    *[
        st.tuples(st.just(kind), number, number)
        for kind in ("repack", "repack", "swap", "move", "copy", "end", "back", "again")
    ],
    st.tuples(st.just("run"), st.integers(1, 3)),
    st.tuples(st.just("crash"), st.sampled_from(STEPS), st.integers(0, 2), st.integers(1, 2)),
)
lives = st.lists(steps, min_size=3, max_size=10)
quick = examples(5, *HealthCheck)
FIVE: Samples = (("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0))
MORE: Samples = (("f", 0), ("g", 0), ("h", 0))


@example([("put", FIVE), ("put", MORE), ("run", 2), ("repack", 0, 1), ("run", 2), ("repack", 0, 1), ("run", 1)])
@example([("put", FIVE), ("run", 2), ("copy", 0, 0), ("run", 2), ("end", 0, 0), ("run", 2), ("back", 0, 0), ("run", 1)])
@example([("put", FIVE), ("put", MORE), ("run", 2), ("repack", 0, 1), ("crash", "after_rows", 0, 1), ("run", 1)])
@example([("put", FIVE), ("put", MORE), ("run", 2), ("repack", 0, 1), ("crash", "before_rows", 1, 1), ("end", 0, 0)])
@example(
    [("put", FIVE), ("run", 2), ("end", 0, 0), ("put", FIVE[:1]), ("run", 2), ("back", 0, 0), ("end", 1, 0)]
)  # there and back, while a sample was elsewhere
@example([("put", FIVE), ("run", 2), ("put", (("a", 1), ("b", 0))), ("run", 2), ("end", 0, 0), ("run", 2)])
@example(
    [("put", FIVE[:1])] * 3 + [("repack", 0, 0), ("crash", "before_rejects", 1, 1), ("swap", 0, 3)]
)  # a tar that holds the row's sample no more, nor any other
@quick
@given(lives)
def test_rows_follow_samples_that_are_repacked(life: list[tuple[Any, ...]]) -> None:
    live_through(life)


@pytest.mark.parametrize("each", [1, 2])
def test_tars_that_are_written_over_with_each_others_samples_take_one_run(each: int, tmp_path: Path) -> None:
    world = World(make_tables(tmp_path))
    world.put(FIVE[:2])
    world.put(MORE[:2])
    world.run()
    world.put(MORE[:2], "p1")
    world.put(FIVE[:2], "p2")
    world.run(each=each)
    found = world.tables.open().to_table(columns=["id", "uri"]).sort_by("id").to_pylist()
    assert [(row["id"], place_of(row["uri"].partition("#")[0])) for row in found] == [
        ("a", "p2"),
        ("b", "p2"),
        ("f", "p1"),
        ("g", "p1"),
    ]
    world.check(settled=True)


def test_a_tar_that_was_only_uploaded_again_keeps_its_ids(tmp_path: Path) -> None:
    world = World(make_tables(tmp_path))
    world.put(FIVE[:2])
    world.run()
    world.put(FIVE[:2], "p1")
    world.put(FIVE[:2], "p2")
    world.run(each=1)
    assert {place_of(row["uri"].partition("#")[0]) for row in world.tables.open().to_table().to_pylist()} == {"p1"}
    world.check(settled=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@examples(200, *HealthCheck)
@given(lives)
def test_the_same_in_many_more_lives(life: list[tuple[Any, ...]]) -> None:
    live_through(life)


def live_through(life: Iterable[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(make_tables(folder))
        for kind, *details in life:
            if kind == "run":
                world.run(each=details[0])
                world.check(settled=False)
            elif kind == "crash":
                world.run(die_at=(details[0], details[1]), each=details[2])
            elif kind == "put":
                world.put(details[0])
            elif kind == "back" and world.ended:
                place = sorted(world.ended)[details[0] % len(world.ended)]
                if place not in world.bucket:
                    world.bucket[place] = world.ended[place]
            elif kind != "back" and world.bucket:
                change(world, kind, details)
        for settled in (False, False, True):  # losers of a tie are planned again once the winner has left
            world.run()
            world.check(settled=settled)
        world.check_versions()


def change(world: World, kind: str, details: list[Any]) -> None:
    places = sorted(world.bucket)
    place = places[details[0] % len(places)]
    if kind == "over":
        world.put(details[1], place)
    elif kind == "again":
        world.put(world.bucket[place][0], place)
    elif kind == "copy":
        world.put(world.bucket[place][0])
    elif kind == "end":
        world.end(place)
    elif kind == "move":
        world.put(world.end(place))
    elif kind == "swap":
        other = places[details[1] % len(places)]
        here, there = world.bucket[place][0], world.bucket[other][0]
        world.put((*there[::2], *here[1::2]), place)
        if other != place:
            world.put((*here[::2], *there[1::2]), other)
    elif kind == "repack":
        samples = [s for one in {place, places[details[1] % len(places)]} for s in world.end(one)]
        world.put(tuple(samples[::2]))
        world.put(tuple(samples[1::2]))
