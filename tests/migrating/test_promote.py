"""A set takes the names that are searched, and leaves them again: gates, kills at every step, and readers meanwhile."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.migrating import drop as dropping
from clipmill.jobs.migrating import promote as promoting
from clipmill.jobs.migrating.promote import How, back, dry_run, promote
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.querying import table as querying
from clipmill.jobs.querying.curve import CONFIG_KEY
from clipmill.jobs.querying.open import Examples, Query, open_table
from clipmill.jobs.table import compat
from clipmill.jobs.table.lancedb_function import KEY
from clipmill.schemas.errors import EXIT_GATE_REFUSED, GateRefused, LeaseHeld, UserError
from tests.build import picture, tar
from tests.committed import Killed, killer
from tests.migrating.filling import SLUG, STORAGE, World, members

LOOSE = GateOptions(min_overlap=0.0, min_coverage=0.5)
OLD = "stub_8"


def how(hook: Callable[[str], None] = promoting.no_hook, settle_s: float = 0.0) -> How:
    return How(say=lambda _: None, hook=hook, settle_s=settle_s)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.embed("a", tar(members(range(0, 12))))
    made.embed("b", tar(members(range(12, 24))))
    made.fill()
    return made


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """The stub has no entry of LanceDB's: give both models one that says which it is of."""

    def named(fingerprint: Any) -> dict[bytes, bytes]:
        return {KEY: json.dumps([{"name": "open-clip", "model": {"name": fingerprint.model}}]).encode()}

    monkeypatch.setattr(promoting, "embedding_functions_metadata", named)
    entry = named(world.old.engine.fingerprint)[KEY].decode()
    world.tables.open().update_schema_metadata({KEY.decode(): entry})


def publish(world: World) -> None:
    rows = world.tables.open()
    rows.tags.create("live", rows.version)


def state(rows: Any) -> tuple[str, str | None]:
    """(model of `vector`, model of the text entry), checked against the vectors themselves."""
    fingerprint = compat.stored_fingerprint(rows.schema)
    assert rows.schema.field("vector").type.list_size == fingerprint.dim
    assert rows.schema.field("caption_vector").type.list_size == fingerprint.dim
    raw = (rows.schema.metadata or {}).get(KEY)
    return fingerprint.model, json.loads(raw)[0]["model"]["name"] if raw else None


def report_on(world: World, *columns: str) -> None:
    """As `clipmill index` leaves one of each column's index."""
    world.tables.open().update_config({CONFIG_KEY + column: json.dumps({"of": column}) for column in columns})


def reports(world: World) -> dict[str, str]:
    """Column -> the name that the vectors of its report had when that was made."""
    config = world.tables.open().config().items()
    return {key.removeprefix(CONFIG_KEY): json.loads(text)["of"] for key, text in config if key.startswith(CONFIG_KEY)}


def test_all_columns_change_names_at_once_and_come_back(world: World, entries: None) -> None:
    publish(world)
    before = world.rows()
    done = promote(world.uri, SLUG, STORAGE, LOOSE, how())
    assert (done.set, done.beside, done.model, done.live) == (SLUG, OLD, "stub", done.version)
    assert done.notes == ["in the job file `model:` has to name stub from now on, or the next run refuses"]
    rows = world.tables.open()
    assert state(rows) == ("stub", "stub")
    after = world.rows()
    for name, row in before.items():
        for base in ("vector", "caption_vector", "caption_score", "tags", "tag_scores"):
            assert after[name][base] == row[f"{base}__{SLUG}"]
            assert after[name][f"{base}__{OLD}"] == row[base]
    assert open_table(world.uri).schema.field("vector").type.list_size == 16
    world.embed("c", tar(members(range(24, 26))), bench=world.new)  # the new model is the table's
    assert promote(world.uri, SLUG, STORAGE, LOOSE, how()).notes == ["it is in use already"]

    returned = back(world.uri, STORAGE, how())
    assert (returned.set, returned.beside) == (OLD, SLUG)
    assert "2 rows have no vector" in returned.notes[0]
    assert state(world.tables.open()) == ("stub:8", "stub:8")
    assert state(world.tables.open(version="live")) == ("stub:8", "stub:8")
    assert back(world.uri, STORAGE, how()).notes == ["the last promotion was taken back already"]
    found = world.rows()
    for name, row in before.items():
        assert found[name]["vector"] == row["vector"]


@pytest.mark.parametrize("direction", ["promote", "back"])
@pytest.mark.parametrize("step", promoting.STEPS)
def test_a_kill_at_any_step_is_gone_on_from(world: World, entries: None, step: str, direction: str) -> None:
    publish(world)
    if direction == "back":
        promote(world.uri, SLUG, STORAGE, LOOSE, how())
    goal = {"promote": "stub", "back": "stub:8"}[direction]

    def go(hook: Callable[[str], None] = promoting.no_hook) -> None:
        if direction == "promote":
            promote(world.uri, SLUG, STORAGE, LOOSE, how(hook))
        else:
            back(world.uri, STORAGE, how(hook))

    report_on(world, "vector")
    first = int(world.tables.open().version)
    with pytest.raises(Killed):
        go(killer(step))
    for version in range(first, int(world.tables.open().version) + 1):
        model, entry = state(world.tables.open(version=version))
        assert entry in (None, model)
    go()
    assert state(world.tables.open()) == (goal, goal)
    assert state(world.tables.open(version="live")) == (goal, goal)
    assert sorted(world.tables.open().schema.names) == sorted(set(world.tables.open().schema.names))
    assert reports(world) == {f"vector__{OLD if direction == 'promote' else SLUG}": "vector"}
    report_on(world, "vector")  # the index is built anew
    went = reports(world)
    go()
    assert reports(world) == went


def test_a_promotion_killed_before_the_rename_can_be_called_off(world: World, entries: None) -> None:
    with pytest.raises(Killed):
        promote(world.uri, SLUG, STORAGE, LOOSE, how(killer("after_detach")))
    assert state(world.tables.open()) == ("stub:8", None)
    report_on(world, "vector")
    assert back(world.uri, STORAGE, how()).notes == ["the last promotion had not happened"]
    assert state(world.tables.open()) == ("stub:8", "stub:8")
    assert reports(world) == {"vector": "vector"}


def test_a_promotion_killed_after_the_rename_and_taken_back_leaves_the_reports_where_they_were(world: World) -> None:
    report_on(world, "vector", f"vector__{SLUG}")
    before = reports(world)
    with pytest.raises(Killed):
        promote(world.uri, SLUG, STORAGE, LOOSE, how(killer("after_rename")))
    back(world.uri, STORAGE, how())
    assert reports(world) == before


def test_the_set_that_is_in_use_from_the_beginning_keeps_what_is_known_of_its_index(world: World) -> None:
    report_on(world, "vector", "caption_vector")
    assert promote(world.uri, OLD, STORAGE, LOOSE, how()).notes == ["it is in use already"]
    assert reports(world) == {"vector": "vector", "caption_vector": "caption_vector"}


def test_what_is_known_of_an_index_goes_with_its_vectors(world: World) -> None:
    report_on(world, f"vector__{SLUG}")
    for _ in range(2):
        promote(world.uri, SLUG, STORAGE, LOOSE, how())
        assert reports(world) == {"vector": f"vector__{SLUG}"}
    for _ in range(2):
        back(world.uri, STORAGE, how())
        assert reports(world) == {f"vector__{SLUG}": f"vector__{SLUG}"}


def test_every_blocker_is_named(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.embed("c", tar(members(range(24, 26))))
    column = f"vector__{SLUG}"
    labels = tmp_path / "golden.csv"
    ids = [row["id"] for row in world.rows().values()]
    labels.write_text("id,label\n" + "".join(f"{one},picture {n % 3}\n" for n, one in enumerate(ids)))
    verdict = dry_run(world.uri, SLUG, STORAGE, GateOptions(min_overlap=0.99, min_misses=1, golden=str(labels)))
    assert {"rows_changed", "coverage", "overlap"} <= set(verdict.blockers)
    assert "2 rows" in verdict.blockers["rows_changed"]
    assert verdict.overlap is not None
    assert sum(verdict.overlap.histogram) == verdict.overlap.rows == 24
    assert len(verdict.overlap.changed_most) == 20
    assert verdict.golden is not None
    assert set(verdict.golden) == {"in_use", "new"}
    assert verdict.norms["bad"] == 0
    with pytest.raises(GateRefused, match="2 rows came or changed"):
        promote(world.uri, SLUG, STORAGE, GateOptions(), how())
    assert compat.stored_fingerprint(world.tables.open().schema).model == "stub:8"
    assert cli.run(["promote", world.uri, SLUG, "--dry-run", "--json"]) == EXIT_GATE_REFUSED
    said = capsys.readouterr()
    assert "rows_changed" in json.loads(said.out)["blockers"]
    assert "rows_changed" in said.err

    world.fill()
    world.tables.open().create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=1)
    verdict = dry_run(world.uri, SLUG, STORAGE, LOOSE)
    assert list(verdict.blockers) == ["index"]
    world.tables.open().create_index(column, "IVF_FLAT", metric="cosine", num_partitions=1)
    assert dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers == {}
    broken = world.tables.open()
    broken.update({column: f"[{', '.join(['0.5'] * 16)}]"}, where="id LIKE '%00003.jpg'")
    assert "norms" in dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers


def test_nobody_promotes_beside_a_fill_or_what_is_not_there(world: World) -> None:
    fill = Lease(world.tables, "f", "reembed", key=FILL_KEY, ttl_s=0.6)
    fill.take(poll_s=0.05)
    fill.keep()
    try:
        with pytest.raises(LeaseHeld):
            promote(world.uri, SLUG, STORAGE, LOOSE, how())
    finally:
        fill.release()
    with pytest.raises(UserError, match="no set 'other'"):
        promote(world.uri, "other", STORAGE, LOOSE, how())
    with pytest.raises(UserError, match="can be taken back"):
        back(world.uri, STORAGE, how())


@pytest.mark.parametrize("step", dropping.STEPS)
def test_a_set_is_dropped_and_its_space_with_it(world: World, step: str) -> None:
    publish(world)
    promote(world.uri, SLUG, STORAGE, LOOSE, how())
    with pytest.raises(UserError, match="in use"):
        dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None)

    with pytest.raises(Killed):
        dropping.drop(world.uri, OLD, STORAGE, say=lambda _: None, hook=killer(step))
    if step != "after_cleanup":
        done = dropping.drop(world.uri, OLD, STORAGE, say=lambda _: None)
        assert (done.set, bool(done.columns)) == (OLD, step == "before_drop")
    with pytest.raises(UserError, match="no set"):
        dropping.drop(world.uri, OLD, STORAGE, say=lambda _: None)
    rows = world.tables.open()
    assert not [key for key in rows.config() if key.startswith(dropping.DROPPING_KEY)]
    assert not [name for name in rows.schema.names if "__" in name]
    with pytest.raises(UserError, match="can be taken back"):
        back(world.uri, STORAGE, how())
    assert len(world.rows()) == 24
    assert rows.count_rows("vector IS NOT NULL") == 24


class Reading:
    """Readers at full speed: following `live`, at a pinned version, and a client of LanceDB's at the newest. Each looks
    that what it is given for `vector` is of the model that its version names."""

    def __init__(self, world: World) -> None:
        import lancedb

        engines = [bench.engine for bench in (world.old, world.new)]
        self.dims = {engine.fingerprint.model: engine.dim for engine in engines}
        self.old = engines[0].fingerprint.model
        columns = zip(self.dims, ("vector", f"vector__{SLUG}"), strict=True)
        rows = world.rows()
        self.truth = {model: {n: row[column] for n, row in rows.items()} for model, column in columns}
        self.database = lancedb.connect(world.tables.database.removeprefix("file://"))
        self.following = open_table(world.uri)
        self.fixed = open_table(world.uri, version=int(world.tables.open().version))
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        works = (self.live, self.pinned, self.plain)
        self.threads = [threading.Thread(target=self._loop, args=(work,)) for work in works]
        for thread in self.threads:
            thread.start()

    def _loop(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:
                self.wrong.append(f"{work.__name__}: {type(error).__name__}: {str(error)[:200]}")
                return
            self.counts[work.__name__] = self.counts.get(work.__name__, 0) + 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join()

    def check(self, model: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            name = row["uri"].rpartition("#")[2].removesuffix(".jpg")
            if list(row["vector"]) != self.truth[model][name]:
                self.wrong.append(f"{model} {name}")

    def live(self) -> None:
        self.following.refresh()
        model = self.following.snapshot.fingerprint("vector").model
        found = self.following.search("picture 3", k=3, columns=("uri", "vector"))
        assert len(found) == 3
        self.check(model, found.to_pylist())

    def pinned(self) -> None:
        self.check(self.old, self.fixed.search("picture 3", k=3, columns=("uri", "vector")).to_pylist())

    def plain(self) -> None:
        table = self.database.open_table("images")
        schema = table.schema
        model, entry = compat.stored_fingerprint(schema).model, (schema.metadata or {}).get(KEY)
        if entry and json.loads(entry)[0]["model"]["name"] != model:
            self.wrong.append(f"words of {entry!r} beside vectors of {model}")
        query = np.ones(self.dims[model], np.float32)
        self.check(model, table.search(query, vector_column_name="vector").limit(3).to_list())


@pytest.fixture
def reading(world: World, entries: None) -> Iterator[Reading]:
    made = Reading(world)
    yield made
    made.stop()


def test_readers_see_one_model_or_the_other(world: World, reading: Reading) -> None:
    publish(world)
    for _ in range(2):
        promote(world.uri, SLUG, STORAGE, LOOSE, how(settle_s=0.2))
        time.sleep(0.3)
        back(world.uri, STORAGE, how(settle_s=0.2))
        time.sleep(0.3)
    assert reading.wrong == []
    assert len(reading.counts) == 3
    assert min(reading.counts.values()) >= 4, reading.counts


def test_a_query_keeps_to_its_version_while_another_thread_refreshes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are encoded by the model of the vectors that it searches, though a newer version has come meanwhile."""
    table = open_table(world.uri)
    encode = querying.encode_texts

    def late(engine: Any, texts: tuple[str, ...]) -> Any:
        if not ran:
            ran.append(engine.dim)
            promote(world.uri, SLUG, STORAGE, LOOSE, how())
            assert table.refresh()
        return encode(engine, texts)

    ran: list[int] = []
    monkeypatch.setattr(querying, "encode_texts", late)
    found = table.run(
        Query(positive=Examples(texts=("picture 3", "picture 4")), negative=Examples(texts=("dark",)), k=3)
    )
    assert (len(found), ran) == (3, [8])


def test_a_picture_without_a_vector_is_found_by_no_search(world: World) -> None:
    world.embed("d", tar(members(range(30, 32))))
    (world.folder / "d.tar").write_bytes(tar([("00030.jpg", picture(99))]))
    world.fill()
    assert world.coverage().failed == 2
    done = promote(world.uri, SLUG, STORAGE, LOOSE, how())
    assert done.verdict is not None
    assert "2 rows have no vector" in done.verdict.notes[0]
    assert f"`clipmill rejects {world.uri} --set {SLUG}` names them" in done.verdict.notes[0]
    found = open_table(world.uri).search("picture 30", k=100)
    assert len(found) == 24


def test_few_pictures_without_a_vector_are_no_share(world: World) -> None:
    """One of 25 is 4 %, and no reason to keep a small table from its new model: the rule of nights."""
    world.embed("d", tar(members(range(30, 31))))
    (world.folder / "d.tar").write_bytes(tar([("00030.jpg", picture(99))]))
    world.fill()
    for section, refused in (({}, False), ({"min_misses": 1}, True), ({"min_coverage": 1.0}, True)):
        verdict = dry_run(world.uri, SLUG, STORAGE, GateOptions(min_overlap=0.0, **section))  # type: ignore[arg-type]
        assert ("coverage" in verdict.blockers) is refused, section
        assert ("too few to judge" in verdict.notes[0]) is not refused
    world.embed("e", tar(members(range(31, 34))))
    (world.folder / "e.tar").write_bytes(tar([("00031.jpg", picture(98))]))
    world.fill()
    few = dry_run(world.uri, SLUG, STORAGE, GateOptions(min_overlap=0.0))
    assert "24 of 28 rows are filled" in few.blockers["coverage"]  # four are more than a tenth


def test_indices_are_built_after_a_promotion_though_their_names_are_taken(world: World) -> None:
    build_index(world.uri)
    build_index(world.uri, IndexOptions(kind="hnsw_sq", columns=("vector",)))
    build_index(world.uri, IndexOptions(kind="hnsw_sq", columns=(f"vector__{SLUG}",)))
    promote(world.uri, SLUG, STORAGE, LOOSE, how())
    assert build_index(world.uri).scalar["tags"] == "built"
    assert build_index(world.uri, IndexOptions(kind="hnsw_sq", rebuild=True, columns=("vector",))).vectors[0].kind
    fields = [tuple(index.field_names) for index in world.tables.open().describe_indices()]
    assert len(fields) == len(set(fields))
    assert {("tags",), (f"tags__{OLD}",), ("vector",), (f"vector__{OLD}",)} <= set(fields)
    back(world.uri, STORAGE, how())
    assert build_index(world.uri).scalar["tags"] == "current"
