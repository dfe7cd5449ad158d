"""Maintenance of a table that lived: few fragments, indices that know every row, no version or file that nobody needs;
and what somebody may still need stays."""

import json
import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipmill.jobs.cli.main import build
from clipmill.jobs.committing import compaction
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import FILL_KEY, Lease, fill_holder
from clipmill.jobs.indexing.build import build_index
from clipmill.jobs.maintaining.maintain import all_orphans, maintain, maintain_table
from clipmill.jobs.maintaining.needed import SIDE_EVERY
from clipmill.jobs.maintaining.orphans import DAY_S
from clipmill.jobs.maintaining.words import maintained_in_words
from clipmill.jobs.table.readers import FENCE_TAG, readers
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.errors import EXIT_UNITS_FAILED, LeaseHeld
from clipmill.schemas.job.config import Storage
from tests.committed import Killed, entry, fragments, ids, killer, make_tables, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def silent(text: str) -> None:
    pass


def commit(tables: Tables, lease: Lease, *names: str) -> None:
    for name in names:
        Committer(tables, lease).commit([entry(name, lease.run, 2)], fragments(tables, name, [f"{name}a", f"{name}b"]))


def folder(tables: Tables, part: str = "") -> Path:
    return Path(tables.uri(part).removeprefix("file://"))


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def files(tables: Tables) -> set[str]:
    return {str(path.relative_to(folder(tables))) for path in folder(tables).rglob("*") if path.is_file()}


def test_fragments_are_merged_indices_extended_and_versions_leave(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1", "u2")
    tables.open().create_scalar_index("id", "BTREE", name="id_idx")
    commit(tables, lease, *(f"u{n}" for n in range(3, 9)))
    tables.open().tags.create("live", 4)
    held = tables.open(version=4).count_rows()
    done = maintain(tables, lease, say=silent, keep=timedelta(0))
    assert (done.rows, done.fragments_before, done.fragments) == (16, 8, 1)
    assert done.indices["id"] == "extended"
    (index,) = [one for one in tables.open().describe_indices() if one.name == "id_idx"]
    assert index.num_rows_indexed == 16
    kept = {int(one["version"]) for one in tables.open().versions()}
    assert kept == {4, int(tables.open().tags.list()[FENCE_TAG]["version"]), tables.open().version}
    assert tables.open(version="live").count_rows() == held
    assert done.versions_removed > 5
    assert done.version_bytes > 0
    lease.release()
    assert verify(f"{tables.database}/{tables.name}", Storage()).problems == []


def test_on_a_full_disk_what_frees_space_is_done_and_the_rest_is_named(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging writes before it frees: what was to make space ended for want of it, and so did each night after."""
    lease = take_lease(tables, "a")
    commit(tables, lease, *(f"u{n}" for n in range(6)))
    tables.open().delete("unit_id = 'u3'")
    before = files(tables)

    def full(*_: object) -> None:
        raise OSError("LanceError(IO): No space left on device (os error 28), structural.rs:191:9")  # as Lance says it

    monkeypatch.setattr(compaction, "_rewritten", full)
    done = maintain(tables, lease, say=silent, keep=timedelta(0))
    assert (done.left_out, done.fragments) == (["merging small fragments"], 5)
    said = "there was no space left for merging small fragments; what nobody needs was removed: run it again, or free"
    assert said in maintained_in_words(done)
    assert done.versions_removed > 5
    assert len({name for name in before - files(tables) if name.startswith("data/")}) == 1
    lease.release()
    told = CliRunner().invoke(build(), ["maintain", f"{tables.database}/{tables.name}"])
    assert told.exit_code == EXIT_UNITS_FAILED
    assert "there was no space left for merging small fragments" in told.stdout
    monkeypatch.undo()
    lease = take_lease(tables, "b")
    assert maintain(tables, lease, say=silent, keep=timedelta(0)).fragments == 1
    assert ids(tables) == sorted(f"u{n}{x}" for n in (0, 1, 2, 4, 5) for x in "ab")


def test_a_month_of_log_lines_is_few_files(tables: Tables) -> None:
    """Every night reads all of them, and each is a request to the store."""
    lease = take_lease(tables, "a")
    for night in range(3):
        for number in range(SIDE_EVERY):
            tables.log_run("a", "nightly", "night", f"{night} {number}", table_id=tables.id())
        maintain(tables, lease, say=silent)
        assert len(tables.open("runs").get_fragments()) == 1
    logged = tables.open("runs").to_table(columns=["detail"], filter="event = 'night'")["detail"].to_pylist()
    assert logged == [f"{night} {number}" for night in range(3) for number in range(SIDE_EVERY)]
    lease.release()


def test_the_fence_moves_to_the_newest_rows_and_still_stops_a_late_holder(tables: Tables) -> None:
    import lance

    lease = take_lease(tables, "a")
    commit(tables, lease, "u1")
    stale = tables.open()
    before = int(tables.open().tags.list()[FENCE_TAG]["version"])
    maintain(tables, lease, say=silent, keep=timedelta(0))
    assert int(tables.open().tags.list()[FENCE_TAG]["version"]) > max(before, stale.version)
    late = lance.Transaction(stale.version, lance.LanceOperation.Update(removed_fragment_ids=[2**32 - 1]))
    with pytest.raises(lance.commit.CommitConflictError):
        lance.LanceDataset.commit(stale, late)


def test_orphans_of_killed_runs_leave_after_a_day_and_nothing_else_does(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1", "u2")
    tables.open().tags.create("mine", tables.open().version)
    known = files(tables)
    fragments(tables, "u3", ["never committed"])
    fragments(tables, "u4", ["at work"])
    mine, young = sorted(files(tables) - known)
    (folder(tables, "rejects") / "data").mkdir(exist_ok=True)
    reject = folder(tables, "rejects") / "data" / "lost.lance"
    reject.write_bytes(b"rejects of a killed worker")
    segment = folder(tables) / "_indices" / "00000000-0000-4000-8000-000000000000"
    segment.mkdir(parents=True)
    for name in ("index.idx", "auxiliary.idx"):
        (segment / name).write_bytes(b"an index build that was killed")
    waiting = folder(tables) / "_indices" / "00000000-0000-4000-8000-000000000001"
    waiting.mkdir()
    (waiting / "index.idx").write_bytes(b"an index build that goes on")
    (folder(tables) / "_clipmill").mkdir()
    state = {"key": "k", "model": "", "segments": {"0": json.dumps({"uuid": waiting.name})}}
    (folder(tables) / "_clipmill" / "index-vector.json").write_text(json.dumps(state))
    for path in (*folder(tables).rglob("*"), reject):
        if path.is_file() and path.name != Path(young).name:
            age(path, 2)  # the files of every version are old too
    seen: list[str] = []
    done = maintain(tables, lease, say=seen.append)
    assert sorted(done.orphan_files) == sorted(
        f"{tables.uri(part)}/{name}"
        for part, name in (
            ("", mine),
            ("", f"_indices/{segment.name}/index.idx"),
            ("", f"_indices/{segment.name}/auxiliary.idx"),
            ("rejects", "data/lost.lance"),
        )
    )
    assert done.orphans == 4
    assert any(text.startswith("removing 4 files") for text in seen)
    assert any(segment.name in text for text in seen)
    assert not segment.exists()
    assert not reject.exists()
    assert (waiting / "index.idx").exists()
    assert young in files(tables)
    assert tables.open(version="mine").to_table().num_rows == 4
    assert ids(tables) == ["u1a", "u1b", "u2a", "u2b"]


def test_a_table_with_a_branch_keeps_all_files(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1")
    tables.open().create_branch("mine")
    fragments(tables, "u3", ["somebody's"])
    assert all_orphans(tables, now_s=time.time() + 2 * DAY_S) == []


def test_nothing_is_merged_or_removed_beside_a_column_fill(tables: Tables) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1", "u2")
    assert fill_holder(tables) is None
    fill = Lease(tables, "f", "reembed", key=FILL_KEY, ttl_s=0.6)
    fill.take()
    fill.keep()
    holder = fill_holder(tables)
    assert holder is not None
    assert holder.run == "f"
    fragments(tables, "u3", ["of the fill"])
    before = files(tables)
    done = maintain(tables, lease, say=silent)
    assert (done.fragments, done.orphans) == (2, 0)
    assert "a column is being filled" in done.notes[0]
    assert before <= files(tables)
    fill.release()
    assert fill_holder(tables) is None
    assert maintain(tables, lease, say=silent).fragments == 1
    assert fill_holder(tables) is None  # given back


def test_a_fill_cannot_begin_while_fragments_are_merged(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipmill.jobs.maintaining import maintain as module

    lease = take_lease(tables, "a", ttl_s=0.3)
    commit(tables, lease, "u1", "u2")
    seen = []

    def beside(*args: object) -> None:
        with pytest.raises(LeaseHeld):
            Lease(tables, "f", "reembed", key=FILL_KEY).take(poll_s=0.05)
        seen.append(True)

    monkeypatch.setattr(module, "_compact", beside)
    maintain(tables, lease, say=silent)
    assert seen


def test_by_hand_it_heals_first_and_a_dry_run_changes_nothing(tables: Tables, tmp_path: Path) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1", "u2")
    with pytest.raises(Killed):
        Committer(tables, lease, hook=killer("after_rows")).commit(
            [entry("u3", "a", 1)], fragments(tables, "u3", ["u3"])
        )
    lease.release()
    table = f"{tables.database}/{tables.name}"
    before = files(tables)
    dry = maintain_table(table, Storage(), say=silent, dry_run=True)
    assert (dry.fragments_before, dry.fragments, dry.orphans) == (3, 1, 0)
    said = maintained_in_words(dry).splitlines()
    assert (said[0], said[-1].rpartition(", ")[2]) == ("would make 1 fragment of 3", "5 rows in 3 fragments")
    assert files(tables) == before
    result = CliRunner().invoke(build(), ["maintain", table, "--json"])
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout.splitlines()[-1])
    assert (done["healed_units"], done["fragments"], done["rows"]) == (1, 1, 5)
    assert verify(table, Storage()).problems == []
    again = maintain_table(table, Storage(), say=silent)
    assert (again.fragments_before, again.fragments) == (1, 1)


def test_every_night_costs_the_same(tables: Tables) -> None:
    """Versions and files stay bounded over thirty nights of the same work."""
    lease = take_lease(tables, "a")
    sizes = []
    for night in range(30):
        texts = fragments(tables, f"n{night}", [f"n{night}"])
        leaving = [f"n{night - 1}"] if night else []
        Committer(tables, lease).commit([entry(f"n{night}", "a", 1)], texts, remove_units=leaving)
        maintain(tables, lease, say=silent, keep=timedelta(0))
        sizes.append(len(files(tables)))
    assert max(sizes[2:]) <= sizes[2] * 1.2, sizes
    assert ids(tables) == ["n29"]


def test_the_age_of_a_file_is_judged_by_the_store_and_not_by_this_clock(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take_lease(tables, "a")
    commit(tables, lease, "u1")
    fragments(tables, "u2", ["at work"])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * DAY_S)  # our clock is days ahead
    assert maintain(tables, lease, say=silent).orphans == 0


def all_versions(tables: Tables) -> list[int]:
    return [int(tables.open(part).version) for part in ("", "units", "rejects", "runs")]


def lived(tables: Tables, *units: str) -> str:
    lease = take_lease(tables, "a")
    commit(tables, lease, *units)
    lease.release()
    return f"{tables.database}/{tables.name}"


def test_with_nothing_to_do_nothing_is_committed_and_readers_are_not_behind(tables: Tables) -> None:
    name = lived(tables, "u1", "u2", "u3")
    tables.open().tags.create("live", tables.open().version)
    first = maintain_table(name, Storage(), say=silent)
    assert (first.fragments_before, first.fragments) == (3, 1)
    seen = readers(tables.open())
    assert (seen.live, seen.is_behind) == (first.version, False)
    before = all_versions(tables)
    for dry_run in (False, True):
        again = maintain_table(name, Storage(), say=silent, dry_run=dry_run)
        assert again.notes == ["nothing to do: the table is as it should be"]
    told = CliRunner().invoke(build(), ["maintain", name]).stdout.splitlines()
    assert told[0] == "nothing to do: the table is as it should be"
    assert told[1].endswith(f"version {first.version}, 6 rows in 1 fragment")
    assert len(told) == 2
    assert all_versions(tables) == before
    lived(tables, "u4")
    assert "to do: fragments to merge" in maintain_table(name, Storage(), say=silent, dry_run=True).notes


def test_readers_of_other_rows_stay_where_they_are(tables: Tables) -> None:
    """What the gates have not seen is not published by maintenance."""
    name = lived(tables, "u1")
    live = int(tables.open().version)
    tables.open().tags.create("live", live)
    lived(tables, "u2", "u3")
    maintain_table(name, Storage(), say=silent)
    assert readers(tables.open()).live == live


@pytest.mark.parametrize(
    "why", ["rows that are in no index", "versions that nobody needs", "commits that are not in", "small files of"]
)
def test_what_is_to_do_is_seen(tables: Tables, why: str) -> None:
    name = lived(tables, "u1", "u2")
    maintain_table(name, Storage(), say=silent)
    lease = take_lease(tables, "b")
    if "index" in why:
        build_index(name)
        commit(tables, lease, "u3")
    elif "ledger" in why or "commits" in why:
        with suppress(Killed):
            Committer(tables, lease, hook=killer("after_rows")).commit(
                [entry("u3", "b", 1)], fragments(tables, "u3", ["u3a"])
            )
    elif "small" in why:  # as many as maintenance merges: what is looked for and what is done are one number
        for _ in range(SIDE_EVERY):
            tables.log_run("b", "embed", "progress", "{}", table_id=tables.id())
    lease.release()
    keep = timedelta(0) if "versions" in why else timedelta(days=7)
    found = maintain_table(name, Storage(), say=silent, keep=keep, dry_run=True)
    assert any(why in note for note in found.notes), found.notes
    maintain_table(name, Storage(), say=silent, keep=timedelta(days=7))
    after = maintain_table(name, Storage(), say=silent, keep=timedelta(days=7), dry_run=True)
    assert after.notes == ["nothing to do: the table is as it should be"]
