"""What several processes of a server hold together: made by one, mapped by all, and gone with the version it is of."""

import errno
import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying.at_hand.shared import Key, Shared
from clipmill.jobs.querying.open import Table, open_table
from tests.tables import TableOptions, WordEngine, append, make_table

ONE = Key(("table", 1, ""))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    made = make_table(tmp_path / "table", TableOptions(rows=300))
    build_index(made, IndexOptions(kind="ivf_rq", measure_recall=False))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def opened(uri: str, folder: Path | None) -> Table:
    table = open_table(uri, engine=WordEngine())
    assert table.warm(rows=True, shared=Shared(folder) if folder else None)
    return table


def answers(table: Table) -> list[pa.Table]:
    asked = [
        {},
        {"any_tags": ("red", "blue")},
        {"where": "views < 40"},
        {"exact": True},
        {"columns": ("id", "caption")},
    ]
    return [table.search("red shoe", k=20, **one) for one in asked]


def held(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.name in ("vectors", "rows"))


def test_the_second_maps_what_the_first_made_and_answers_as_one_alone(uri: str, folder: Path) -> None:
    first = opened(uri, folder)
    made = {name: (folder / name).stat().st_ino for name in held(folder)}
    assert len(made) == 2
    second = opened(uri, folder)
    assert {name: (folder / name).stat().st_ino for name in held(folder)} == made, "made again"
    lines = Path("/proc/self/maps").read_text().splitlines()
    assert sum(line.split()[4] in {str(inode) for inode in made.values()} for line in lines) >= 4
    assert second.snapshot.warm["vector"].cells is not None
    assert second.snapshot.rows is not None
    alone = opened(uri, None)
    assert answers(first) == answers(second) == answers(alone)


def test_a_newer_version_takes_the_place_of_the_one_before(uri: str, folder: Path) -> None:
    first, second = opened(uri, folder), opened(uri, folder)
    before = held(folder)
    append(uri, TableOptions(rows=40, start=300))
    assert first.refresh()
    now = held(folder)
    assert len(now) == 2
    assert not set(now) & set(before)
    assert len(answers(second)[0]) == 20, "what is mapped stays"
    assert second.refresh()
    assert held(folder) == now
    assert answers(first) == answers(second) == answers(opened(uri, None))


def test_a_process_that_is_still_at_an_older_version_takes_nothing_from_the_others(uri: str, folder: Path) -> None:
    late = open_table(uri, engine=WordEngine())
    first = opened(uri, folder)
    append(uri, TableOptions(rows=40, start=300))
    assert first.refresh()
    newest = held(folder)
    assert late.warm(rows=True, shared=Shared(folder))  # what it opened before
    assert set(newest) < set(held(folder))
    assert late.refresh()
    assert held(folder) == newest, "mapped, not made again; and the older ones have gone"
    made_again = Key(("another table", 1, ""))
    Shared(folder).get_or_make("vectors vector", made_again, lambda place: None, Path.exists)
    assert [name for name in held(folder) if name.endswith("vectors")] == []


def test_many_at_once_make_it_once(folder: Path) -> None:
    made: list[int] = []

    def make(place: Path) -> None:
        made.append(1)
        (place / "one").write_text("whole")

    found: list[str] = []

    def get() -> None:
        found.append(Shared(folder).get_or_make("kind", ONE, make, lambda place: (place / "one").read_text()))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, found) == ([1], ["whole"] * 8)


def test_what_was_not_made_whole_is_made_again(folder: Path) -> None:
    shared = Shared(folder)

    def fails(place: Path) -> None:
        (place / "one").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        shared.get_or_make("kind", ONE, fails, Path.exists)
    assert not shared.has("kind", ONE)
    assert [one.name for one in folder.iterdir() if one.is_dir()] == []
    left = folder / f"{next(folder.glob('*.lock')).stem}+killed"  # as a process leaves it that is killed
    left.mkdir()
    assert shared.get_or_make("kind", ONE, lambda _: None, Path.exists)
    assert not left.exists()


def test_without_room_each_holds_its_own(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    table = opened(uri, folder)
    assert [name for name in held(folder) if name.endswith("vectors")] == []
    monkeypatch.undo()
    assert answers(table)[3] == answers(opened(uri, None))[3]
