"""A fill beside embedding, deleting and compacting, killed at every step, and of sources that are not what they were.
Without Ray; `test_reembed` has whole runs."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating import fill_plan
from clipmill.jobs.migrating.fill import STEPS
from clipmill.schemas.columns import SET_COLUMNS, set_column
from clipmill.schemas.errors import ClipmillError, LeaseHeld, LeaseLost
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read.again import GAP_BYTES, Read, Row, pieces, read_again
from clipmill.workers.write import leaf_ids
from tests.build import noise, picture, tar
from tests.committed import Killed, killer
from tests.migrating.filling import SLUG, World, members

VECTOR = f"vector__{SLUG}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def expected(world: World, seed: int) -> list[float]:
    pixels = world.new.engine.prepare(picture(seed), Limits()).pixels_CHW
    vector = world.new.engine.encode_images(pixels[None])[0].astype(np.float16)
    return [float(x) for x in vector]


def check(world: World, seeds: range, *, failed: tuple[int, ...] = ()) -> None:
    """Every row has the vector of its own picture, or is one of the failed."""
    rows = world.rows()
    assert sorted(rows) == [f"{seed:05d}" for seed in seeds]
    for seed in seeds:
        found = rows[f"{seed:05d}"][VECTOR]
        assert found == (None if seed in failed else expected(world, seed)), seed
    found_coverage = world.coverage()
    assert (found_coverage.failed, found_coverage.left) == (len(failed), 0)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_no_more_than_what_was_not_committed(world: World, step: str) -> None:
    world.embed("a", tar(members(range(0, 4))))
    world.embed("b", tar([*members(range(4, 6)), ("00006.jpg", picture(6))]))
    (world.folder / "b.tar").write_bytes(tar([*members(range(4, 6)), ("00006.jpg", picture(7))]))
    with pytest.raises(Killed):
        world.fill(hook=killer(step), each=True)
    done_before = world.coverage().filled if step not in ("before_columns",) else 0
    assert done_before == (4 if step == "after_fill" else 0)
    later = world.fill(run="second")
    assert sum(one.written for one in later) == 6 - done_before
    check(world, range(7), failed=(6,))
    assert world.coverage().rejects == {"source_changed": 1}
    assert world.plan().units == []
    assert world.fill(run="third") == []


def test_rows_that_come_and_go_meanwhile(world: World) -> None:
    first = world.embed("a", tar(members(range(0, 4))))
    world.embed("b", tar(members(range(4, 8))))

    def meanwhile() -> None:
        world.embed("c", tar(members(range(8, 10))))
        world.tables.open().delete(f"uri LIKE '%{5:05d}.jpg'")
        world.embed("a", tar(members(range(0, 3))), replaces=first)

    receipts = world.fill(between=meanwhile)
    assert sum(one.written for one in receipts) == 8
    found = world.coverage()
    assert (found.rows, found.filled, found.left) == (8, 3, 5)  # b without one; the new a and c wait
    world.fill()
    rows = world.rows()
    assert sorted(rows) == [f"{seed:05d}" for seed in (0, 1, 2, 4, 6, 7, 8, 9)]
    for name, row in rows.items():
        assert row[VECTOR] == expected(world, int(name))
    assert world.coverage().left == 0


def test_a_compaction_meanwhile_costs_the_fragment_once_more(world: World) -> None:
    world.embed("a", tar(members(range(0, 3))))
    world.embed("b", tar(members(range(3, 6))))

    def meanwhile() -> None:
        world.tables.open().optimize.compact_files(target_rows_per_fragment=1000)

    world.fill(between=meanwhile)
    assert world.coverage().filled == 0
    world.fill()
    check(world, range(6))
    world.embed("c", tar(members(range(6, 8))))  # its set's columns are null, in one file with the others
    meanwhile()
    receipts = world.fill()
    assert [one.written for one in receipts] == [2]  # those that were filled keep what they have
    check(world, range(8))


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit for every two rows, however small the fragment."""
    monkeypatch.setattr(fill_plan, "LEAST_ROWS", 2)


def test_units_share_a_fragment_where_there_are_few(world: World, shared: None) -> None:
    world.embed("a", tar(members(range(0, 9))))
    (world.folder / "a.tar").write_bytes(tar([*members(range(0, 8)), ("00008.jpg", picture(99))]))
    world.add_set()
    plan = world.plan()
    assert [unit.num_samples for unit in plan.units] == [2, 2, 2, 3]
    assert plan.shared == {0: 4}
    before = int(world.tables.open().version)
    receipts = world.fill()
    assert sum(one.written for one in receipts) == 8
    assert int(world.tables.open().version) == before + 1  # one file for all four
    check(world, range(9), failed=(8,))

    world.embed("b", tar(members(range(9, 16))))
    world.tables.open().optimize.compact_files(target_rows_per_fragment=1000)
    assert len(world.tables.open().get_fragments()) == 1
    receipts = world.fill(each=True)  # whatever is there already stays
    assert [one.written for one in receipts] == [2, 2, 3]
    check(world, range(16), failed=(8,))


@pytest.mark.parametrize("after", range(3))
def test_a_kill_between_units_that_share_a_fragment(world: World, shared: None, after: int) -> None:
    world.embed("a", tar(members(range(0, 6))))
    commits: list[str] = []

    def hook(at: str) -> None:
        commits.append(at)
        if commits.count("before_fill") > after:
            raise Killed

    with pytest.raises(Killed):
        world.fill(hook=hook, each=True)
    assert world.coverage().filled == 2 * after
    again = world.fill(run="second")
    assert sum(one.written for one in again) == 6 - 2 * after
    check(world, range(6))


def test_a_shared_fragment_that_is_compacted_meanwhile_is_done_again(world: World, shared: None) -> None:
    world.embed("a", tar(members(range(0, 4))))
    world.embed("b", tar(members(range(4, 8))))
    world.fill(between=lambda: world.tables.open().optimize.compact_files(target_rows_per_fragment=1000))
    assert world.coverage().filled == 0
    world.tables.open().delete("uri LIKE '%00003.jpg'")
    world.fill()
    assert (world.coverage().filled, world.coverage().left) == (7, 0)


def test_two_fills_at_once(world: World) -> None:
    world.embed("a", tar(members(range(3))))
    other = Lease(world.tables, "other", "reembed", key=FILL_KEY)

    def takeover() -> None:
        with pytest.raises(LeaseHeld):
            alive = Lease(world.tables, "third", "reembed", key=FILL_KEY, ttl_s=0.2)
            holder = Lease(world.tables, "fill", "reembed", key=FILL_KEY)
            holder.epoch = 1
            holder.take(poll_s=0.05)
            holder.ttl_s = 0.3
            holder.keep()
            try:
                alive.take(poll_s=0.2)
            finally:
                holder._stop.set()
                assert holder._thread is not None
                holder._thread.join(20)  # it may be renewing, and a renewal between the next two lines is a conflict
        dataset, _ = other._read()
        other.epoch = 99
        assert other._swap(dataset)

    with pytest.raises(LeaseLost):
        world.fill(between=takeover)
    assert world.coverage().filled == 0
    other.release()
    world.fill(run="after")
    check(world, range(3))


def test_a_set_dropped_at_the_last_moment_leaves_its_field_ids_to_another_and_no_values(world: World) -> None:
    """Lance gives the ids of dropped columns away again, so that only the version that was fixed before tells."""
    world.embed("a", tar(members(range(3))))
    world.add_set()
    columns = [set_column(base, SLUG) for base in SET_COLUMNS]
    ids = leaf_ids(world.tables.open(), columns)
    others = [set_column(base, "another_model") for base in SET_COLUMNS]

    def hook(at: str) -> None:
        rows = world.tables.open()
        if at == "before_fill" and columns[0] in rows.schema.names:
            fields = [rows.schema.field(name).with_name(other) for name, other in zip(columns, others, strict=True)]
            rows.drop_columns(columns)
            world.tables.open().add_columns(pa.schema(fields))

    with pytest.raises(ClipmillError, match="changed during the fill"):
        world.fill(hook=hook)
    rows = world.tables.open()
    assert leaf_ids(rows, others) == ids
    assert rows.count_rows(" OR ".join(f"{name} IS NOT NULL" for name in others)) == 0


def test_bytes_that_changed_vanished_or_are_no_picture(world: World) -> None:
    world.embed("a", tar(members(range(0, 3))))
    world.embed("b", tar(members(range(3, 5))))
    (world.folder / "a.tar").write_bytes(tar([("00000.jpg", picture(0)), ("00001.jpg", noise(1, 700))]))
    (world.folder / "b.tar").unlink()
    world.fill()
    found = world.coverage()
    assert (found.filled, found.left) == (1, 0)
    assert found.rejects == {"not_found": 2, "source_changed": 2}
    # The row that was replaced since is tried, the others are not.
    assert world.plan().units == []


@pytest.mark.counted
def test_few_rows_cost_a_request_each_and_most_rows_one_for_all(world: World) -> None:
    world.embed("a", tar(members(range(100), pad=2_000)))
    world.fill()
    assert world.coverage().left == 0
    read = Read()
    rows = [
        Row(
            place=n, id=str(n), uri=r["uri"], offset=r["image_offset"], size=r["image_size"], image_hash=r["image_hash"]
        )
        for n, r in enumerate(sorted(world.rows().values(), key=lambda r: r["uri"]))
    ]
    few = list(read_again(rows[::50], Storage(), Limits(), read))
    own = sum(len(one.image) for one in few if isinstance(one, Sample))
    assert (len(few), read.requests) == (2, 2)
    assert read.num_bytes <= 1.1 * own
    every = Read()
    assert len(list(read_again(rows, Storage(), Limits(), every))) == 100
    assert every.requests == 1


def row(place: int, offset: int, size: int, uri: str = "file:///a.tar#x") -> Row:
    return Row(place=place, id=str(place), uri=uri, offset=offset, size=size)


def test_what_lies_near_is_read_together() -> None:
    near = [row(0, 100, 50), row(1, 150 + GAP_BYTES, 10), row(2, 161 + 2 * GAP_BYTES, 10)]
    assert [[r.place for r in piece.rows] for piece in pieces(near)] == [[0, 1], [2]]
    apart = [row(0, 0, 10), row(1, 20, 10, "file:///b.tar#x"), row(2, 5, 10), row(3, 0, 5)]  # back to front too
    assert [len(piece.rows) for piece in pieces(apart)] == [1, 1, 1, 1]
    large = [row(n, n * 3_000_000, 3_000_000) for n in range(4)]
    assert [len(piece.rows) for piece in pieces(large)] == [2, 2]


@pytest.mark.parametrize("kind", ["tar.gz", "parquet", "file"])
def test_places_without_a_range(tmp_path: Path, kind: str) -> None:
    data = [picture(seed) for seed in range(3)]
    if kind == "tar.gz":
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(tar([(f"{n}.jpg", one) for n, one in enumerate(data)])))
        uris = [f"file://{path}#{n}.jpg" for n in (0, 1, 2, 7)]
    elif kind == "parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"mask": [b"m", b"n", b"o"], "image": data}), path, row_group_size=2)
        uris = [f"file://{path}#row={n}" for n in (0, 1, 2, 7)]
    else:
        for n, one in enumerate(data):
            (tmp_path / f"{n}.jpg").write_bytes(one)
        uris = [f"file://{tmp_path}/{n}.jpg" for n in (0, 1, 2, 7)]
    hashes = [xxhash.xxh3_128_hexdigest(one) for one in (data[0], b"another", data[2], data[0])]
    rows = [
        Row(place=n, id=f"id{n}", uri=uri, offset=None, size=None, image_hash=hashes[n]) for n, uri in enumerate(uris)
    ]
    found = {one.id: one for one in read_again(rows, Storage(), Limits())}
    assert isinstance(found["id0"], Sample)
    assert found["id0"].image == data[0]
    assert isinstance(found["id2"], Sample)
    reasons = [one.reason for one in (found["id1"], found["id3"]) if isinstance(one, Reject)]
    assert reasons == [Reason.SOURCE_CHANGED, Reason.NOT_FOUND]


def test_a_place_outside_the_source_is_refused(world: World, tmp_path: Path) -> None:
    unit_id = world.embed("a", tar(members(range(2))))
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(9))
    world.tables.open().update({"uri": f"'file://{secret}'"}, where=f"uri LIKE '%{1:05d}.jpg'")
    plan = world.plan()
    assert [(unit, one.reason) for unit, one in plan.refused] == [(unit_id, Reason.BAD_URI)]
    assert plan.rows == 1
