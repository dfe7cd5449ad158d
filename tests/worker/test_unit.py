"""The road of one image, with the stub engine: every sample ends as a row or a named reject."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.flow import ReadAhead, Turns, map_ahead
from clipmill.workers.store.storage import head
from clipmill.workers.stub import StubEngine
from clipmill.workers.unit import UnitRun
from clipmill.workers.write import reject_table
from tests.build import picture, tar
from tests.committed import entry_of, take_lease

STORAGE = Storage()


class Road:
    """A table, a bench and a tar, without Ray."""

    def __init__(
        self, folder: Path, members: list[tuple[str, bytes]], *, thumbnails: bool = False, **source: Any
    ) -> None:
        self.engine = StubEngine.from_name("stub:4")
        self.tables = Tables.at(f"{folder}/db/images", STORAGE)
        self.tables.ensure_side_tables()
        fingerprint = self.engine.fingerprint
        schema = rows_schema(
            dim=4,
            keep=Source.model_validate({"format": "webdataset", "uri": "x", **source}).keep_types,
            fingerprint_json=fingerprint.to_json(),
            vocabulary_json=None,
            thumbnails=thumbnails,
        )
        version = int(self.tables.create("", schema).version)
        self.tar = folder / "a.tar"
        self.tar.write_bytes(tar(members))
        self.bench = Bench(engine=self.engine, tagger=None, pool=ThreadPoolExecutor(2), samples_at_once=4)
        self.context = WorkContext(
            run="r",
            rows_uri=self.tables.rows,
            rows_version=version,
            rejects_uri=self.tables.uri("rejects"),
            source=Source.model_validate({"format": "webdataset", "uri": str(self.tar), "caption": "txt", **source}),
            storage=STORAGE,
            limits=Limits(),
            thumbnails=thumbnails,
        )

    def task(self, **changes: Any) -> Task:
        seen = head(str(self.tar), STORAGE)
        unit = WorkUnit(unit_id="u1", format="webdataset", uri=seen.uri, etag=seen.etag, size_bytes=seen.size_bytes)
        return Task(unit=replace(unit, **changes.pop("unit", {})), attempt=1, **changes)

    def run(self, **changes: Any) -> Receipt:
        return UnitRun(self.task(**changes), self.context, self.bench).run()

    def land(self, receipt: Receipt) -> list[dict[str, Any]]:
        entry = entry_of(self.task().unit, "r", receipt.seen, rejected=receipt.num_rejected)
        lease = take_lease(self.tables, "r")
        Committer(self.tables, lease).commit([entry], receipt.fragments, reject_fragments=receipt.reject_fragments)
        assert ledger.live(ledger.read_ledger(self.tables))["u1"].seen == receipt.seen
        return list(self.tables.open().to_table().sort_by("id").to_pylist())

    def rejects(self) -> dict[str, str]:
        rows = self.tables.open("rejects").to_table().to_pylist()
        return {row["uri"].rpartition("#")[2]: row["reason"] for row in rows}


def pictures(count: int) -> list[tuple[str, bytes]]:
    members = []
    for i in range(count):
        members += [(f"{i:03d}.jpg", picture(i)), (f"{i:03d}.txt", f"picture {i}".encode())]
    return members


def test_a_unit_becomes_rows(tmp_path: Path) -> None:
    road = Road(tmp_path, [*pictures(10), ("x.jpg", picture(99))])
    receipt = road.run()
    assert (receipt.outcome, receipt.seen, receipt.written, receipt.rejected) == (Outcome.DONE, 11, 11, {})
    rows = road.land(receipt)
    assert [r["caption"] for r in rows] == [*(f"picture {i}" for i in range(10)), None]
    for row in rows:
        assert np.linalg.norm(row["vector"]) == pytest.approx(1, abs=2e-3)
        assert (row["caption_vector"] is None) == (row["caption"] is None) == (row["caption_score"] is None)
        assert row["source_etag"] == road.task().unit.etag
        with road.tar.open("rb") as file:  # one ranged read gives the image
            file.seek(row["image_offset"])
            image = file.read(row["image_size"])
        expected = road.engine.encode_images(road.engine.prepare(image, Limits()).pixels_CHW[None])[0]
        assert np.dot(expected, row["vector"]) == pytest.approx(1, abs=2e-3), "rows and pictures are misaligned"
    captioned = rows[:10]
    vectors = road.engine.encode_texts([r["caption"] for r in captioned])
    for row, vector in zip(captioned, vectors, strict=True):
        assert np.dot(vector, row["caption_vector"]) == pytest.approx(1, abs=2e-3)
        assert row["caption_score"] == pytest.approx(np.dot(row["vector"], row["caption_vector"]), abs=2e-3)


def test_bad_images_are_named_and_their_batch_is_whole(tmp_path: Path) -> None:
    members = pictures(9)
    members[4] = ("002.jpg", b"not a picture")
    members[8] = ("004.jpg", b"")
    members[12] = ("006.jpg", picture(6)[:200])
    road = Road(tmp_path, members)
    receipt = road.run()
    assert (receipt.seen, receipt.written) == (9, 6)
    rows = road.land(receipt)
    assert [r["caption"] for r in rows] == [f"picture {i}" for i in (0, 1, 3, 5, 7, 8)]
    assert road.rejects() == {"002.jpg": "unknown_format", "004.jpg": "empty", "006.jpg": "truncated"}


def test_a_value_that_cannot_be_read_is_null_counted_and_named(tmp_path: Path) -> None:
    members = [("a.jpg", picture(1)), ("a.json", b'{"n": "x"}'), ("b.jpg", picture(2)), ("b.json", b'{"n": "y"}')]
    road = Road(tmp_path, [*members, ("c.jpg", picture(3)), ("c.json", b'{"n": 3}')], keep={"n": "int32"})
    receipt = road.run()
    assert (receipt.written, receipt.unread) == (3, {"n": 2})
    assert receipt.unread_first == {"n": f"n = 'x' is not int32, at {road.tar}#a.jpg"}
    assert [row["n"] for row in road.land(receipt)] == [None, None, 3]


def test_a_vector_that_is_not_finite_is_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMILL_STUB_NAN", "NANNAN")
    members = pictures(6)
    members[6] = ("003.jpg", picture(3) + b"NANNAN")
    road = Road(tmp_path, members)
    receipt = road.run()
    assert receipt.rejected == {"not_finite": 1}
    assert [r["caption"] for r in road.land(receipt)] == [f"picture {i}" for i in (0, 1, 2, 4, 5)]


def test_running_out_of_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    road = Road(tmp_path, pictures(7))
    whole = road.run()
    monkeypatch.setenv("CLIPMILL_STUB_OOM_ABOVE", "1")
    halved = road.run()
    assert (halved.written, halved.content_hash) == (whole.written, whole.content_hash)


def test_a_caption_that_comes_again_is_embedded_once_for_all_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(name, b"a shoe" if name.endswith("txt") else data) for name, data in pictures(9)]
    members[1] = ("000.txt", b"a hat")
    road = Road(tmp_path, members)
    asked: list[str] = []
    real = road.engine.encode_texts

    def encode_texts(texts: Any) -> Any:
        asked.extend(texts)
        return real(texts)

    monkeypatch.setattr(road.engine, "encode_texts", encode_texts)
    road.run()
    receipt = road.run()
    assert sorted(asked) == ["a hat", "a shoe"]
    vectors = {text: real([text])[0] for text in ("a hat", "a shoe")}
    for row in road.land(receipt):
        assert np.dot(vectors[row["caption"]], row["caption_vector"]) == pytest.approx(1, abs=2e-3)


def test_a_sample_that_killed_a_worker_is_passed_over(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(5))
    receipt = road.run(skip={2: "killed_worker"})
    assert receipt.rejected == {"killed_worker": 1}
    assert [r["caption"] for r in road.land(receipt)] == [f"picture {i}" for i in (0, 1, 3, 4)]
    assert road.rejects() == {"002.jpg": "killed_worker"}


def test_a_sample_that_is_passed_over_is_named_by_its_content_too(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(2), id="content")
    road.land(road.run(skip={1: "killed_worker"}))
    (reject,) = road.tables.open("rejects").to_table().to_pylist()
    assert reject["id"] == xxhash.xxh3_128_hexdigest(picture(1))


def test_equal_content_under_a_new_etag_is_an_alias(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(5))
    first = road.run()
    again = road.run(known={first.content_hash: "u0"}, unit={"unit_id": "u2"})
    assert (again.outcome, again.alias_of, again.fragments) == (Outcome.ALIAS, "u0", ())
    road.tar.write_bytes(tar(pictures(4)))
    changed = road.run(known={first.content_hash: "u0"}, unit={"unit_id": "u2"})
    assert (changed.outcome, changed.written) == (Outcome.DONE, 4)


def test_equal_content_is_an_alias_where_ids_are_of_the_content_too(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(3), id="content")
    first = road.run()
    again = road.run(known={first.content_hash: "u0"}, unit={"unit_id": "u2"})
    assert (again.outcome, again.alias_of) == (Outcome.ALIAS, "u0")


@pytest.mark.parametrize("how", ["uploaded again", "repacked", "other ids", "another name"])
def test_an_alias_is_true_of_the_rows(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal content whose rows would say something else is written anew, with the vectors that the table has."""
    road = Road(tmp_path, pictures(6), id="key")
    first = road.run()
    before = road.land(first)
    version = int(road.tables.open().version)
    road.context = replace(road.context, rows_version=version, run="again")
    if how == "repacked":
        road.tar.write_bytes(tar([("README", b"x" * 3000), *pictures(6)]))
    if how == "other ids":
        road.context = replace(road.context, source=road.context.source.model_copy(update={"id": "uri"}))
    if how == "another name":
        road.tar = road.tar.rename(tmp_path / "b.tar")
    monkeypatch.setattr(road.engine, "encode_images", lambda _: pytest.fail("the model ran"))
    again = road.run(known={first.content_hash: "u1"}, unit={"unit_id": "u2"})
    if how == "uploaded again":
        assert (again.outcome, again.alias_of, again.fragments) == (Outcome.ALIAS, "u1", ())
        return
    assert (again.outcome, again.seen, again.written, again.content_hash) == (Outcome.DONE, 6, 6, first.content_hash)
    batch = pa.Table.from_batches(list(batches_of(road, again))).sort_by("image_offset").to_pylist()
    for number, (row, was) in enumerate(zip(batch, before, strict=True)):
        assert row["uri"] == f"{road.tar}#{number:03d}.jpg"
        assert row["id"] == (row["uri"] if how == "other ids" else f"{number:03d}")
        assert [row[name] for name in ("vector", "caption", "tags")] == [was[n] for n in ("vector", "caption", "tags")]
        with road.tar.open("rb") as file:
            file.seek(row["image_offset"])
            assert file.read(row["image_size"]) == picture(number)


@pytest.mark.parametrize("rejected_as", ["001", ""])
def test_new_ids_are_seen_where_no_sample_has_a_row_too(rejected_as: str, tmp_path: Path) -> None:
    """All were duplicates; with ids of another kind they are none. What is rejected for its bytes stays an alias."""
    road = Road(tmp_path, pictures(2), id="key")
    first = road.run()
    named = [
        Reject(id=id_, uri=f"{road.tar}#{n:03d}.jpg", reason=Reason.DUPLICATE_ID)
        for n, id_ in enumerate(("000", rejected_as))
    ]
    table = reject_table(named, unit_id="u0", run="r", attempt=1, fingerprint="0" * 16)
    road.tables.append("rejects", table)
    assert road.run(known={first.content_hash: "u0"}, unit={"unit_id": "u2"}).outcome == Outcome.ALIAS
    road.context = replace(road.context, source=road.context.source.model_copy(update={"id": "uri"}))
    again = road.run(known={first.content_hash: "u0"}, unit={"unit_id": "u2"})
    assert (again.outcome, again.written) == (Outcome.DONE, 2)


def test_a_caption_alone_makes_other_content(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(2))
    first = road.run()
    members = pictures(2)
    members[1] = ("000.txt", b"another caption")
    road.tar.write_bytes(tar(members))
    assert road.run().content_hash != first.content_hash


def test_a_source_that_changed_since_the_plan_gives_nothing(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(3))
    receipt = road.run(unit={"etag": "another"})
    assert (receipt.outcome, receipt.fragments, receipt.written) == (Outcome.SOURCE_CHANGED, (), 0)


def test_content_ids_come_from_the_bytes(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(3), id="content")
    rows = road.land(road.run())
    assert [r["id"] for r in rows] == sorted(r["image_hash"] for r in rows)


def test_an_empty_shard_is_done_with_nothing(tmp_path: Path) -> None:
    road = Road(tmp_path, [])
    receipt = road.run()
    assert (receipt.outcome, receipt.seen, receipt.fragments) == (Outcome.DONE, 0, ())
    assert road.land(receipt) == []


def test_thumbnails_are_stored_when_asked_for(tmp_path: Path) -> None:
    road = Road(tmp_path, pictures(1), thumbnails=True)
    (row,) = road.land(road.run())
    assert row["thumbnail"][8:12] == b"WEBP"


def test_an_error_inside_the_stages_is_not_turned_into_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's stream interface would hand back a string; the driver needs the exception."""
    road = Road(tmp_path, pictures(40))
    calls = []

    def explode(pixels: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("from the third batch")
        return StubEngine.encode_images(road.engine, pixels)

    monkeypatch.setattr(road.engine, "encode_images", explode)
    with pytest.raises(ZeroDivisionError, match="third batch"):
        road.run()


def test_read_ahead_never_holds_more_than_its_budget() -> None:
    held, most = 0, 0
    lock = threading.Lock()

    def items():  # type: ignore[no-untyped-def]
        nonlocal held, most
        for _ in range(200):
            with lock:
                held += 10
                most = max(most, held)
            yield 10

    ahead = ReadAhead(items(), lambda n: n, max_items=1000, max_bytes=50)
    for n in ahead:
        time.sleep(0.0005)
        with lock:
            held -= n
    assert most <= 50 + 20, "one item waits at the door, one is being consumed"


def test_read_ahead_raises_the_readers_error_and_stops_when_closed() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise OSError("the store went away")

    ahead = ReadAhead(broken(), lambda _: 1, max_items=2, max_bytes=10)
    with pytest.raises(OSError, match="went away"):
        list(ahead)
    endless = ReadAhead(iter(int, 1), lambda _: 1, max_items=2, max_bytes=10)
    endless.close()
    assert not endless._thread.is_alive()


def test_map_ahead_keeps_the_order() -> None:
    with ThreadPoolExecutor(4) as pool:

        def slow(n: int) -> int:
            time.sleep(0.002 * (n % 3))
            return n

        assert list(map_ahead(pool, slow, range(50), window=8)) == list(range(50))


def test_the_engine_is_told_how_many_units_are_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in flight, two at the model; the last one has it for itself, also after another failed."""
    told: list[int] = []
    road = Road(tmp_path, [])
    monkeypatch.setattr(StubEngine, "share", lambda self, callers: told.append(callers))
    bench = Bench(engine=road.engine, tagger=None, pool=None, turns=Turns(road.context.at_the_model(8)))
    with bench.unit():
        with pytest.raises(ValueError, match="broken"), bench.unit(), bench.unit():
            raise ValueError("broken")
        assert told == [1, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("callers", "in_flight", "expected"), [(1, 3, 1), (2, 3, 2), (16, 3, 2), (16, 8, 7), (2, 1, 1), (4, 2, 1)]
)
def test_one_unit_more_than_the_model_takes_prepares(
    callers: int, in_flight: int, expected: int, tmp_path: Path
) -> None:
    context = replace(Road(tmp_path, []).context, units_in_flight=in_flight)
    assert context.at_the_model(callers) == expected


def test_what_moved_is_not_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors, tags and scores are those of the old place's rows; what is not among them goes through the model."""
    road = Road(tmp_path, [*pictures(6), ("x.jpg", picture(99))])
    before = road.land(road.run())
    road.context = replace(road.context, rows_version=int(road.tables.open().version))
    counted: list[int] = []
    encode = road.engine.encode_images

    def counting(pixels_BCHW: Any) -> Any:
        counted.append(len(pixels_BCHW))
        return encode(pixels_BCHW)

    monkeypatch.setattr(road.engine, "encode_images", counting)
    moved = road.run(moved_from="u1", unit={"unit_id": "u2"})
    assert (moved.seen, moved.written, counted) == (7, 7, [])
    batch = pa.Table.from_batches(list(batches_of(road, moved)))
    for row, was in zip(batch.sort_by("id").to_pylist(), before, strict=True):
        assert row == {**was, "unit_id": "u2", "caption_score": pytest.approx(was["caption_score"], abs=1e-3)}

    road.tar.write_bytes(tar([*pictures(4), ("new.jpg", picture(50))]))
    changed = road.run(moved_from="u1", unit={"unit_id": "u3", "etag": ""})
    assert (changed.written, counted) == (5, [1]), "one batch of four is known, the other is not"


def batches_of(road: Road, receipt: Receipt) -> Any:
    from lance.file import LanceFileReader
    from lance.fragment import FragmentMetadata

    for fragment in receipt.fragments:
        for file in FragmentMetadata.from_json(fragment).files:
            yield from LanceFileReader(f"{road.tables.rows}/data/{file.path}").read_all().to_batches()


# --- the census -------------------------------------------------------------------------------------------------


def test_what_is_left_out_and_what_is_filled_is_counted(tmp_path: Path) -> None:
    members = [
        ("0.jpg", picture(0)),
        ("0.txt", b"a caption"),
        ("0.json", b'{"n": 7}'),
        ("1.jpg", picture(1)),
        ("1.heic", b"x"),
        ("2.jpg", b"no picture"),
        ("2.txt", b"lost with it"),
        ("README", b"x"),
    ]
    receipt = Road(tmp_path, members, keep={"n": "int32", "license": "string"}).run()
    assert (receipt.seen, receipt.written) == (3, 2)
    assert receipt.left_out == {"heic": 1, "no extension": 1}
    assert receipt.filled == {"caption": 1, "tags": 0, "n": 1, "license": 0}


def test_a_reader_that_drops_a_picture_fails_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are counted where the members pass, so a sum is left open, and the unit never reaches the ledger."""
    from clipmill.workers.read.tars import webdataset

    take = webdataset._Assembly._take

    def forgets(self: Any, member: Any) -> Any:
        return iter(()) if member.name == "3.jpg" else take(self, member)

    road = Road(tmp_path, [(f"{n}.jpg", picture(n)) for n in range(6)])
    assert road.run().seen == 6
    monkeypatch.setattr(webdataset._Assembly, "_take", forgets)
    with pytest.raises(AssertionError, match=r"1 of 6 pictures of .*a\.tar are in no sum"):
        road.run()
