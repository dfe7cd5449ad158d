"""The end of a run: which versions and files leave, which stay, and what readers are told."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.committing.cleanup import KEEP, clean
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.table.live import PREVIOUS, PUBLISHED
from clipmill.jobs.table.readers import FENCE_TAG, LIVE, readers, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas import columns
from tests.committed import entry, fragments, ids, make_tables, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


@pytest.fixture
def lease(tables: Tables) -> Lease:
    return take_lease(tables, "a")


def silent(text: str) -> None:
    pass


def commit(tables: Tables, lease: Lease, *names: str) -> None:
    for name in names:
        Committer(tables, lease).commit([entry(name, lease.run, 1)], fragments(tables, name, [name]))


def versions(tables: Tables) -> set[int]:
    return {int(one["version"]) for one in tables.open().versions()}


def started(tables: Tables, days_ago: float) -> None:
    """As if a run had begun then."""
    row = {"run": "old", "command": "embed", "event": "started", "detail": "", "table_id": tables.id()}
    at = datetime.now(UTC) - timedelta(days=days_ago)
    tables.append("runs", pa.Table.from_pylist([{**row, "at": at}], schema=columns.RUNS))


def test_old_versions_leave_and_tagged_ones_stay(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1", "u2")
    finish_table(tables, lease, publish=True, say=silent)
    live = tables.open().version
    commit(tables, lease, "u3", "u4")
    stale = tables.open(version=1)
    assert clean(tables, lease, say=silent, keep=timedelta(0))
    fence = int(tables.open().tags.list()[FENCE_TAG]["version"])
    assert versions(tables) == {fence, live, tables.open().version}
    assert tables.open(version="live").count_rows() == 2
    assert ids(tables) == ["u1", "u2", "u3", "u4"]
    operation = lance.LanceOperation.Update(removed_fragment_ids=[2**32 - 1])
    with pytest.raises(lance.commit.CommitConflictError):  # a late holder's commit still dies at the fence
        lance.LanceDataset.commit(stale, lance.Transaction(stale.version, operation))


def test_files_of_nobody_leave_when_they_are_a_week_old(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1")
    folder = Path(tables.rows.removeprefix("file://")) / "data"
    old, young = folder / f"{'0' * 31}1.lance", folder / f"{'0' * 31}2.lance"
    for path, days in ((old, 8), (young, 1)):
        path.write_bytes(b"a worker that was killed wrote this")
        then = time.time() - days * 86_400
        os.utime(path, (then, then))
    in_flight = fragments(tables, "u2", ["u2"])
    started(tables, days_ago=30)
    assert clean(tables, lease, say=silent)
    assert (old.exists(), young.exists()) == (False, True)
    Committer(tables, lease).commit([entry("u2", "a", 1)], in_flight)
    assert ids(tables) == ["u1", "u2"]


def test_it_is_done_once_a_day_and_not_before_the_table_is_a_week_old(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1")
    before = versions(tables)
    started(tables, days_ago=6)
    assert not clean(tables, lease, say=silent)
    started(tables, days_ago=8)
    assert clean(tables, lease, say=silent)
    assert not clean(tables, lease, say=silent)
    assert versions(tables) == before  # all of them younger than a week
    assert timedelta(days=7) <= KEEP
    with pytest.raises(AssertionError):
        clean(tables, lease, say=silent, keep=timedelta(hours=1))


def test_a_store_that_removes_nothing_is_told_and_ends_no_run(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1", "u2")
    said: list[str] = []
    real = Tables.open

    class NoDelete:
        def cleanup_old_versions(self, *args: object, **options: object) -> None:
            raise OSError("LanceError(IO): 403 Forbidden")

    def refusing(self: Tables, part: str = "", **options: object) -> object:
        found = real(self, part, **options)  # type: ignore[arg-type]
        return found if part or not said else NoDelete()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tables, "open", refusing)
        assert not clean(tables, lease, say=said.append, keep=timedelta(0))
    assert "the next run tries again" in said[-1]


def test_what_readers_see_is_said(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1", "u2")
    seen = finish_table(tables, lease, publish=False, say=silent)
    assert (seen.live, seen.newest_rows, seen.is_behind) == (None, 2, False)
    assert seen.notes(publish=False, whole=True, hint="do so") == []
    published = finish_table(tables, lease, publish=True, say=silent)
    assert (published.live, published.live_rows) == (published.newest, 2)
    assert published.notes(publish=True, whole=True, hint="do so") == [
        f"published: readers see the published version {published.live} with 2 rows"
    ]
    commit(tables, lease, "u3")
    behind = readers(tables.open())
    assert (behind.live, behind.live_rows, behind.newest_rows) == (published.live, 2, 3)
    (note,) = behind.notes(publish=False, whole=True, hint="do so")
    assert note == (
        f"readers see the published version {published.live} with 2 rows, "
        f"not the newest {behind.newest} with 3 rows; do so"
    )
    (refused,) = behind.notes(publish=True, whole=False, hint="do so")
    assert refused.startswith("not published, because units are missing: readers see the published version")


def test_what_readers_saw_before_a_run_published_can_be_gone_back_to(tables: Tables, lease: Lease) -> None:
    commit(tables, lease, "u1")
    first = finish_table(tables, lease, publish=True, say=silent)
    commit(tables, lease, "u2")
    second = finish_table(tables, lease, publish=True, say=silent)
    finish_table(tables, lease, publish=True, say=silent)  # nothing came
    assert (first.live, second.live) == tuple(int(tags_of(tables.open())[name]["version"]) for name in (PREVIOUS, LIVE))
    lines = tables.open("runs").to_table(filter=f"event = '{PUBLISHED}'")["detail"].to_pylist()
    assert [json.loads(line)["version"] for line in lines] == [first.live, second.live]
