"""Rows that a person had deleted leave in one commit, stay counted, and do not come back; a purge leaves no byte."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from click.testing import CliRunner

from clipmill.jobs.cli.main import run as cli
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.duplicates import units_to_redo
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.maintaining.delete import Deleted, Options, Which, delete, take_back
from clipmill.jobs.querying.lists import read_ids
from clipmill.jobs.table import ledger, tombstones
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import status
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas import columns
from clipmill.schemas.errors import LeaseHeld, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerState
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.tombstones import Tombstone, Tombstones
from clipmill.workers.write import reject_table, write_reject_fragments
from tests.committed import DIM, Killed, entry, fragments, ids, killer, make_tables, rows_table, take_lease

STEPS = ("before_rejects", "before_rows", "after_rows", "after_ledger")


def silent(text: str) -> None:
    pass


def yes(found: Deleted) -> None:
    pass


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """u1: a b c; u2: d e (the picture of c). Nobody holds the lease."""
    tables = make_tables(tmp_path)
    lease = take_lease(tables, "embed")
    committer = Committer(tables, lease)
    committer.commit([entry("u1", "embed", 3)], fragments(tables, "u1", ["a", "b", "c"]))
    committer.commit([entry("u2", "embed", 2)], fragments(tables, "u2", ["d", "e"], images=["d", "c"]))
    lease.release()
    return tables


def name(tables: Tables) -> str:
    return f"{tables.database}/{tables.name}"


def gone(tables: Tables, which: Which | None = None, **options: Any) -> Deleted:
    return delete(name(tables), Storage(), which or Which(), Options(**options), confirm=yes, say=silent)


def by(*names: str) -> Which:
    return Which(ids=names)


def hash_of(image: str) -> str:
    return str(xxhash.xxh3_128_hexdigest(image.encode()))


def check(tables: Tables) -> None:
    """`secret`'s captions have no vectors, which is no matter here."""
    assert [p for p in verify(name(tables), Storage()).problems if "there is only caption" not in p] == []
    assert status(name(tables), Storage()).balanced


def test_rows_leave_in_one_commit_and_every_sum_holds(tables: Tables) -> None:
    before = tables.open().version
    done = gone(tables, by("a", "e", "a-typo"))
    assert (done.rows, done.units, done.not_found, done.not_found_ids) == (2, 2, 1, ["a-typo"])
    assert ids(tables) == ["b", "c", "d"]
    changed = [v for v in range(before + 1, tables.open().version + 1) if tables.open(version=v).count_rows() != 5]
    assert changed[0] == done.version
    latest = ledger.read_ledger(tables)
    assert {u: (e.seen, e.written, e.deleted, e.present, e.state) for u, e in latest.items()} == {
        "u1": (3, 3, 1, 2, LedgerState.COMMITTED),
        "u2": (2, 2, 1, 1, LedgerState.COMMITTED),
    }
    assert (status(name(tables), Storage()).deleted, verify(name(tables), Storage()).deleted) == (2, 2)
    check(tables)
    again = gone(tables, by("a", "e"))
    assert (again.rows, again.already_deleted, again.not_found) == (0, 2, 0)


def test_a_filter_is_the_checked_sql_of_search(tables: Tables) -> None:
    assert gone(tables, Which(where="id IN ('a', 'b') AND width = 1")).rows == 2
    with pytest.raises(UserError, match="names widht, which is no column"):
        gone(tables, Which(where="widht > 3"))
    with pytest.raises(UserError, match="calls repeat"):
        gone(tables, Which(where="repeat(id, 9) = 'x'"))
    assert gone(tables, Which(where="width > 5")).rows == 0
    assert ids(tables) == ["c", "d", "e"]
    check(tables)


def test_the_last_row_of_a_unit_leaves_and_the_unit_stays_done(tables: Tables) -> None:
    gone(tables, by("d", "e"))
    assert ledger.live(ledger.read_ledger(tables))["u2"].present == 0
    check(tables)


def test_what_stays_away(tables: Tables) -> None:
    gone(tables, by("a", "e"))
    stones = tombstones.read_tombstones(tables)
    a, c = hash_of("a"), hash_of("c")
    assert stones.holds("a", "file:///u1.tar#a", a)  # the same bytes under the same id
    assert stones.holds("a", "file:///elsewhere.tar#a", a)  # wherever it lies now
    assert stones.holds("renamed", "file:///renamed.tar#a", a)  # no other row had these bytes: under any id
    assert not stones.holds("a", "file:///u1.tar#a", hash_of("another picture"))  # a new picture under the old id
    assert stones.holds("e", "file:///u2.tar#e", c)
    assert not stones.holds("c", "file:///u1.tar#c", c)  # its copy was kept: only e is gone
    assert not stones.holds("new", "file:///new.tar#c", c)
    gone(tables, by("c"))
    assert tombstones.read_tombstones(tables).holds("new", "file:///new.tar#c", c)  # the last copy is gone too
    check(tables)


def test_tombstones_are_16_bytes_a_key_and_pickle() -> None:
    import pickle

    many = Tombstones.of(Tombstone(id=f"i{n}", uri="", image_hash=f"h{n}") for n in range(1000))
    assert many.digests_N2.nbytes == 16_000
    again = pickle.loads(pickle.dumps(many))
    assert all(again.holds(f"i{n}", "u", f"h{n}") for n in range(1000))
    assert not any(again.holds(f"i{n}", "u", f"h{n + 1}") for n in range(1000))
    assert not Tombstones().holds("i", "u", "h")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_all_or_nothing_happened(tables: Tables, step: str) -> None:
    with pytest.raises(Killed):
        gone(tables, by("a", "d"), hook=killer(step))
    happened = step in ("after_rows", "after_ledger")
    assert ids(tables) == (["b", "c", "e"] if happened else ["a", "b", "c", "d", "e"])
    # Whoever comes next heals it: nobody's tombstones count, or all do.
    gone(tables, by("b"))
    assert tombstones.read_tombstones(tables).holds("a", "x", hash_of("a")) == happened
    latest = ledger.read_ledger(tables)
    assert [latest[u].deleted for u in ("u1", "u2")] == ([2, 1] if happened else [1, 0])
    check(tables)
    assert gone(tables, by("a", "d")).rows == (0 if happened else 2)
    assert ids(tables) == ["c", "e"]
    check(tables)


def test_the_loser_of_a_deleted_winner_does_not_come_up_by_itself(tables: Tables) -> None:
    lease = take_lease(tables, "embed2")
    loser = Reject(id="a", uri="file:///u3.tar#a", reason=Reason.DUPLICATE_ID, detail="the id belongs to u1")
    table = reject_table([loser], unit_id="u3", run="embed2", attempt=1, fingerprint="0", table_id=tables.id() or "")
    texts = write_reject_fragments(table, tables.uri("rejects"), tables.options)
    made = replace(entry("u3", "embed2", 0), seen=1, rejected=1)
    Committer(tables, lease).commit([made], (), reject_fragments=texts)
    lease.release()
    done = gone(tables, by("a"))
    assert done.waiting == 1
    assert redo(tables) == frozenset()
    stones = tombstones.read_tombstones(tables)
    assert stones.holds("a", "file:///u3.tar#a", hash_of("other bytes"))  # also where its unit is read again
    check(tables)
    taken = take_back(name(tables), Storage(), by("a"), dry_run=False, confirm=yes, say=silent)
    assert (taken.rows, taken.version) == (2, tables.open().version)
    assert redo(tables) == {"u1", "u3"}  # meant: both are read again, and one of them has the id


def redo(tables: Tables) -> frozenset[str]:
    return units_to_redo(tables, ledger.read_ledger(tables), [], lambda _: False)


def test_a_tombstone_that_is_taken_back_has_its_unit_read_again(tables: Tables) -> None:
    gone(tables, by("a", "d"))
    assert redo(tables) == frozenset()
    dry = take_back(name(tables), Storage(), by("a", "b"), dry_run=True, confirm=yes, say=silent)
    assert dry.rows == 1  # what would be taken back
    assert (dry.already_deleted, dry.not_found_ids) == (1, ["b"])
    assert redo(tables) == frozenset()
    where = Which(where="uri LIKE '%u1.tar%'")
    take_back(name(tables), Storage(), where, dry_run=False, confirm=yes, say=silent)
    assert redo(tables) == {"u1"}
    assert not tombstones.read_tombstones(tables).holds("a", "x", hash_of("a"))
    assert tombstones.read_tombstones(tables).holds("d", "x", hash_of("d"))
    check(tables)
    with pytest.raises(UserError, match="names caption, which is no column"):
        take_back(name(tables), Storage(), Which(where="caption = 'a'"), dry_run=False, confirm=yes, say=silent)


def test_verify_sees_a_deleted_row_that_is_there_and_tombstones_that_are_gone(tables: Tables) -> None:
    import shutil

    gone(tables, by("a"))
    lease = take_lease(tables, "x")
    Committer(tables, lease).commit([entry("u9", "x", 1)], fragments(tables, "u9", ["a"]))
    lease.release()
    assert any("row a is there, though it was deleted" in p for p in verify(name(tables), Storage()).problems)
    shutil.rmtree(tables.uri("deleted").removeprefix("file://"))
    assert any("__deleted is gone" in p for p in verify(name(tables), Storage()).problems)


def test_many_rows_of_many_fragments(tables: Tables) -> None:
    """More ids than one filter takes, whole fragments among them."""
    lease = take_lease(tables, "more")
    names = [f"m{n:05d}'s" for n in range(7000)]
    texts = [f for n in range(0, 7000, 3500) for f in fragments(tables, "u5", names[n : n + 3500])]
    Committer(tables, lease).commit([entry("u5", "more", 7000)], texts)
    lease.release()
    gone(tables, Which(ids=tuple(names[:5500])))
    assert tables.open().count_rows() == 1505
    check(tables)


class TestCommand:
    def run(self, *args: str) -> int:
        return cli(["delete", *args])

    def test_a_pipe_is_asked_for_yes_and_a_dry_run_counts(
        self, tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listed = tmp_path / "ids.txt"
        listed.write_text("a\r\n\nnobody\n")
        assert self.run(name(tables), "--ids", str(listed)) == 2
        said = capsys.readouterr().err
        assert "delete 1 row of 1 unit of" in said
        assert "hint: add --yes" in said
        assert self.run(name(tables), "--where", "id < 'c'", "--dry-run", "--json") == 0
        counted = json.loads(capsys.readouterr().out)
        assert (counted["rows"], counted["dry_run"], counted["examples"]) == (2, True, ["a", "b"])
        assert ids(tables) == ["a", "b", "c", "d", "e"]
        assert self.run(name(tables), "--ids", str(listed), "--yes", "--json") == 3  # `nobody` is named
        assert json.loads(capsys.readouterr().out)["not_found_ids"] == ["nobody"]
        assert ids(tables) == ["b", "c", "d", "e"]

    @pytest.mark.parametrize(
        "args",
        [
            (),
            ("--where", "width = 1", "--ids", "ids.txt"),
            ("--undo",),
            ("--undo", "--purge", "--where", "id = 'a'"),
            ("--drop-tags", "--where", "id = 'a'"),
        ],
    )
    def test_what_does_not_go_together_is_a_mistake(
        self, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("ids.txt").write_text("a\n")
        assert self.run(name(tables), *args, "--yes") == 2
        assert len(ids(tables)) == 5

    def test_a_terminal_is_asked(self, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        from clipmill.jobs.cli.main import build

        for answer, left in (("n\n", 5), ("y\n", 4)):
            runner = CliRunner()
            monkeypatch.setattr("clipmill.jobs.cli.maintain._is_terminal", lambda: True)
            runner.invoke(build(), ["delete", name(tables), "--where", "id = 'a'"], input=answer)
            assert len(ids(tables)) == left
        assert sys.stdin is not None

    def test_a_file_that_is_no_list_of_ids(self, tmp_path: Path) -> None:
        path = tmp_path / "ids"
        for data, said in ((b"\xff\xfe", "no UTF-8"), (b"\n\n", "names no id"), (b"a\0b", "NUL")):
            path.write_bytes(data)
            with pytest.raises(UserError, match=said):
                read_ids(str(path))


def holds(tables: Tables, *needles: bytes) -> list[str]:
    """Files of the database in which one of these is."""
    folder = Path(tables.database.removeprefix("file://"))
    return [p.name for p in folder.rglob("*") if p.is_file() and any(n in p.read_bytes() for n in needles)]


@pytest.fixture
def secret(tmp_path: Path) -> tuple[Tables, tuple[bytes, ...]]:
    """A table with captions, thumbnails and indices, whose row `a` is to go; and what must then be nowhere."""
    import numpy as np

    word, thumbnail = "zyxwvsecretcaption", np.random.default_rng(1).bytes(600)
    vector = np.random.default_rng(2).standard_normal(DIM).astype(np.float16)
    tables = make_tables(tmp_path)
    columns_ = columns.rows_schema(
        dim=DIM,
        keep={"license": "string"},
        fingerprint_json=tables.open().schema.field("vector").metadata[columns.FINGERPRINT_KEY].decode(),
        vocabulary_json=None,
        thumbnails=True,
    )
    import shutil

    shutil.rmtree(tables.rows.removeprefix("file://"))
    tables.create("", columns_)
    lease = take_lease(tables, "embed")
    from clipmill.workers.write import fragment_json, write_row_fragments

    def committed(unit_id: str, names: list[str]) -> None:
        rows = rows_table(tables, unit_id, names)
        n = len(names)
        mine = [one == "a" for one in names]

        def put(column: str, values: list[Any]) -> None:
            nonlocal rows
            place = rows.schema.get_field_index(column)
            rows = rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))

        put("caption", [f"{word} of a person" if m else f"picture {i}" for i, m in enumerate(mine)])
        put("license", [f"licence{word}" if m else "cc0" for m in mine])
        put("thumbnail", [thumbnail if m else b"small" for m in mine])
        put("vector", [vector if m else np.full(DIM, 0.5, np.float16) for m in mine])
        texts = tuple(map(fragment_json, write_row_fragments(rows.to_batches(), tables.open(), tables.options)))
        bad = Reject(id="a", uri=f"file:///{unit_id}.tar#a", reason=Reason.BAD_METADATA, detail=f"'{word}' is no JSON")
        table = reject_table([bad], unit_id=unit_id, run="early", attempt=1, fingerprint="0")
        rejects = write_reject_fragments(table, tables.uri("rejects"), tables.options)
        Committer(tables, lease).commit([entry(unit_id, "embed", n)], texts, reject_fragments=rejects)

    committed("u1", ["a", "b", "c"])
    committed("u2", ["d", "e"])
    summary = {"rows": 5, "unread_first": {"license": f"{word} is no number, at file:///u1.tar#a", "x": "1, at else"}}
    tables.log_run("embed", "embed", "finished", json.dumps(summary), table_id=tables.id())
    rows = tables.open()
    rows.create_scalar_index("caption", "INVERTED", name="caption_idx", base_tokenizer="icu", with_position=False)
    rows.create_scalar_index("license", "BITMAP", name="license_idx")
    fragments(tables, "u7", ["a"])  # a worker that was killed wrote this
    lease.release()
    return tables, (word.encode(), thumbnail[:64], vector.tobytes())


Secret = tuple[Tables, tuple[bytes, ...]]


def test_a_purge_leaves_no_byte_of_it(secret: Secret) -> None:
    tables, needles = secret
    for needle in needles:
        assert holds(tables, needle), "the test would see nothing"
    gone(tables, by("a"))
    assert holds(tables, needles[1])  # in old versions, and behind a deletion mark
    done = gone(tables, purge=True).purged
    assert done is not None
    assert (done.left, done.dropped_tags, done.details_blanked) == ([], [], 3)
    assert done.indices_rebuilt == 2
    assert done.files_removed == 1
    assert holds(tables, *needles) == []
    assert ids(tables) == ["b", "c", "d", "e"]
    indices = {index.name for index in tables.open().describe_indices()}
    assert {"caption_idx", "license_idx"} <= indices
    assert tables.open().to_table(full_text_query="picture", columns=["id"]).num_rows == 4
    check(tables)
    assert '"x"' in tables.open("runs").to_table(filter="event = 'finished'")["detail"].to_pylist()[0]


def test_delete_and_purge_at_once(secret: Secret) -> None:
    tables, needles = secret
    done = gone(tables, Which(where="caption LIKE '%secret%'"), purge=True)
    assert done.rows == 1
    assert holds(tables, *needles) == []
    assert tombstones.read_tombstones(tables).holds("a", "x", hash_of("a"))
    check(tables)


def test_tags_that_would_keep_it_are_named_before_anything_is_done(secret: Secret) -> None:
    tables, needles = secret
    rows = tables.open()
    rows.tags.create("live", rows.version)
    rows.tags.create("empty", 1)
    with pytest.raises(UserError, match=r"live \(version \d+\)") as error:
        gone(tables, by("a"), purge=True)
    assert "empty" not in error.value.message
    told = "tags keep versions that hold what is to be purged: live (version"
    (note,) = gone(tables, by("a"), purge=True, dry_run=True).notes
    assert note.startswith(told)
    assert "refused without --drop-tags" in note
    assert "would be dropped" in gone(tables, by("a"), purge=True, drop_tags=True, dry_run=True).notes[0]
    assert gone(tables, by("a"), dry_run=True).notes == []
    assert "live" in tables.open().tags.list()
    assert "publish" in error.value.hint
    assert len(ids(tables)) == 5
    (note,) = gone(tables, by("a")).notes  # without a purge it can be done, and then published
    assert f"`clipmill publish {name(tables)}` publishes the newest" in note
    with pytest.raises(UserError, match="live"):
        gone(tables, purge=True)
    rows = tables.open()
    rows.tags.update("live", rows.version)
    done = gone(tables, purge=True).purged
    assert done is not None
    assert done.moved_tags == ["live"]  # it names the same rows, in the files that were written anew
    assert tables.open(version="live").count_rows() == 4
    assert tables.open(version="empty").count_rows() == 0
    assert holds(tables, *needles) == []


def test_a_tag_is_in_the_way_also_where_all_rows_of_a_fragment_were_deleted(tables: Tables) -> None:
    """Their commit takes a fragment away and writes none, as a fence does."""
    rows = tables.open()
    rows.tags.create("live", rows.version)
    gone(tables, by("d", "e"))
    with pytest.raises(UserError, match="live"):
        gone(tables, purge=True)
    assert tables.open(version="live").count_rows() == 5


def test_tags_are_dropped_where_that_is_asked_for(secret: Secret) -> None:
    tables, needles = secret
    rows = tables.open()
    rows.tags.create("live", rows.version)
    done = gone(tables, by("a"), purge=True, drop_tags=True).purged
    assert done is not None
    assert done.dropped_tags == ["live"]
    assert holds(tables, *needles) == []
    assert "live" not in tables.open().tags.list()


def test_no_purge_beside_a_column_fill(secret: Secret) -> None:
    tables, _ = secret
    fill = Lease(tables, "f", "reembed", key=FILL_KEY, ttl_s=0.6)
    fill.take()
    fill.keep()
    with pytest.raises(LeaseHeld):
        gone(tables, by("a"), purge=True)
    assert len(ids(tables)) == 5
    fill.release()


def test_a_purge_that_was_killed_is_run_again(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipmill.jobs.maintaining import purge as module

    tables, needles = secret
    steps: list[str] = ["_rewrite", "_rebuild_indices", "_blank", "_remove_versions", "_remove_files"]
    gone(tables, by("a"))
    for step in steps:
        real: Callable[..., Any] = getattr(module, step)

        def die(*args: Any, real: Callable[..., Any] = real) -> None:
            real(*args)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, step, die)
            with pytest.raises(Killed):
                gone(tables, purge=True)
        assert ids(tables) == ["b", "c", "d", "e"]
    gone(tables, purge=True)
    assert holds(tables, *needles) == []
    check(tables)


def test_gates_of_a_night_do_not_miss_what_was_deleted(tables: Tables) -> None:
    """Neither coverage nor lost rows nor rejects: also once the units were read again, and the samples kept out."""
    from clipmill.jobs.publishing.gates import Judged, check_gates
    from clipmill.schemas.job.nightly import Nightly

    rows = tables.open()
    rows.tags.create("live", rows.version)
    judged = Judged(nightly=Nightly(min_coverage=1.0, max_gone=0.1))

    def numbers() -> dict[str, tuple[bool, float]]:
        gates = check_gates(tables, judged, say=silent)
        return {g.name: (g.passed, float(g.value)) for g in gates if g.name in ("rows", "coverage", "rejects")}

    good = {"rows": (True, 0.0), "coverage": (True, 1.0), "rejects": (True, 0.0)}
    assert numbers() == good
    gone(tables, by("a", "b"))
    assert numbers() == good
    lease = take_lease(tables, "embed2")
    kept = [Reject(id=i, uri=f"file:///u1.tar#{i}", reason=Reason.DELETED) for i in ("a", "b")]
    table = reject_table(kept, unit_id="u1b", run="embed2", attempt=1, fingerprint="0", table_id=tables.id() or "")
    texts = write_reject_fragments(table, tables.uri("rejects"), tables.options)
    made = replace(entry("u1b", "embed2", 1), seen=3, rejected=2)
    retired = replace(ledger.read_ledger(tables)["u1"], state=LedgerState.RETIRED, table_version=0)
    new = fragments(tables, "u1b", ["c"])
    Committer(tables, lease).commit([retired, made], new, reject_fragments=texts, remove_units=["u1"])
    lease.release()
    assert numbers() == good
    rows = tables.open()
    lease = take_lease(tables, "x")
    Committer(tables, lease).commit([], (), remove_ids={"u2": ["d"]})  # nobody asked for this one
    assert numbers()["rows"][0] is False


def test_maintenance_and_a_purge_on_s3(s3: Any) -> None:
    """The store dates the files, and removes them."""
    from clipmill.jobs.maintaining.maintain import maintain

    storage = Storage(endpoint_url=s3.endpoint)
    tables = make_tables(f"s3://{s3.bucket}/maintaining", storage=storage)
    lease = take_lease(tables, "embed")
    for unit_id in ("u1", "u2"):
        Committer(tables, lease).commit([entry(unit_id, "embed", 1)], fragments(tables, unit_id, [unit_id]))
    fragments(tables, "u3", ["of a killed worker"])
    done = maintain(tables, lease, say=silent)
    assert (done.fragments, done.orphans) == (1, 0)
    lease.release()
    found = delete(name(tables), storage, Which(where="id = 'u1'"), Options(purge=True), confirm=yes, say=silent)
    assert found.purged is not None
    assert (found.purged.files_removed, found.purged.fragments_rewritten) == (1, 1)
    assert ids(tables) == ["u2"]
    assert len(tables.open().versions()) == 1
