"""A source that is renamed: its rows follow it to the new place, nothing is there twice, and no model runs for it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.planning.dry_run import dry_run
from tests.build import picture
from tests.integration.help import job, problems, rejects, rows, run, write_tar

pytestmark = pytest.mark.ray


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(picture(seed))
        (folder / f"{seed}.txt").write_text(f"picture {seed}")
    return folder


def write_parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [picture(seed) for seed in range(4)], "caption": [f"picture {seed}" for seed in range(4)]}
    pq.write_table(pa.table(table), path)
    return path


def write_list(path: Path) -> Path:
    folder = write_files(path.parent / "pics")
    lines = [f"{folder}/{seed}.jpg,picture {seed}" for seed in range(4)]
    path.write_text("\n".join(["image,caption", *lines]) + "\n")
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], str, str, dict[str, str]]] = {
    # name: (writes it, where it is, where it goes, how the job names it)
    "webdataset": (
        lambda p: write_tar(p, range(4), bad=1),
        "raw/a.tar",
        "raw/b/z.tar",
        {"uri": "raw/**", "caption": "txt"},
    ),
    "files": (write_files, "raw/old", "raw/new", {"uri": "", "caption": "txt"}),
    "parquet": (write_parquet, "raw/a.parquet", "raw/b.parquet", {"uri": "raw/*.parquet", "caption": "caption"}),
    "manifest": (write_list, "raw/a.csv", "raw/b.csv", {"uri": "raw/*.csv", "caption": "caption"}),
}


FAST = {("webdataset", "uri"), ("files", "key")}
CASES = [
    pytest.param(kind, id_, marks=[] if (kind, id_) in FAST else pytest.mark.slow)
    for kind in KINDS
    for id_ in ("uri", "key")
]


@pytest.mark.parametrize(("kind", "id_"), CASES)
def test_rows_follow_a_source_that_was_renamed(kind: str, id_: str, here: Path) -> None:
    write, old, new, named = KINDS[kind]
    write(here / old)

    def made(place: str) -> Any:
        uri = f"{here}/{named['uri']}" if named["uri"] else f"{here}/{place}/"
        return job(here, {"format": kind, "id": id_, **named, "uri": uri})

    first = run(made(old))
    assert first.rows == 4
    before = {row["caption"]: row for row in rows(made(old))}
    (here / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(here / old, here / new)

    planned = dry_run(made(new))
    assert (planned.moved, planned.new, planned.gone) == (1, 0, 0)
    moved = run(made(new))
    assert (moved.units, moved.moved_units, moved.replaced_units, moved.rows) == (1, 1, 0, 4)
    assert problems(made(new)) == []
    after = {row["caption"]: row for row in rows(made(new))}
    assert after.keys() == before.keys()
    assert len(rows(made(new), "id")) == 4, "and each of them once"
    for caption, row in after.items():
        was = before[caption]
        expected = was["uri"] if kind == "manifest" else was["uri"].replace(str(here / old), str(here / new))
        assert row["uri"] == expected
        assert row["id"] == (row["uri"] if id_ == "uri" else was["id"])
        assert row["vector"] == was["vector"]
        assert row["caption_vector"] == was["caption_vector"]
        assert row["unit_id"] != was["unit_id"]
    refused = rejects(made(new))
    assert len(refused) == sum(first.rejects.values())
    assert all(str(here / new) in reject["uri"] for reject in refused)
    assert moved.rejects == first.rejects
    assert run(made(new)).note.startswith("nothing to do")
    assert dry_run(made(new)).moved == 0


def test_rows_follow_samples_that_are_repacked(here: Path) -> None:
    """Ids are keys: other tars hold the same keys and bytes, and the old tars are gone."""
    (here / "raw").mkdir()
    made = job(here, {"format": "webdataset", "id": "key", "uri": f"{here}/raw/*.tar", "caption": "txt"})
    write_tar(here / "raw/a.tar", range(3))
    write_tar(here / "raw/b.tar", range(3, 6), bad=1)
    assert run(made).rows == 6
    before = {row["id"]: row for row in rows(made)}
    for old in ("a", "b"):
        (here / f"raw/{old}.tar").unlink()
    write_tar(here / "raw/x.tar", [0, 2, 4])
    write_tar(here / "raw/y.tar", [1, 3])
    repacked = run(made)
    assert (repacked.rows, repacked.moved_rows, repacked.rejects) == (5, 5, {})
    assert problems(made) == []
    after = {row["id"]: row for row in rows(made)}
    assert after.keys() == before.keys(), "5 is gone with its tar, and stays as whatever is gone does"
    assert sorted(Path(row["uri"].partition("#")[0]).name for row in after.values()) == [
        "b.tar",
        *["x.tar"] * 3,
        *["y.tar"] * 2,
    ]
    assert all(np.dot(row["vector"], before[id_]["vector"]) > 0.999 for id_, row in after.items())
    assert run(made).note.startswith("nothing to do")


@pytest.mark.slow
def test_a_copy_takes_over_when_its_original_ends(here: Path) -> None:
    (here / "raw").mkdir()
    made = job(here, {"format": "webdataset", "id": "key", "uri": f"{here}/raw/*.tar", "caption": "txt"})
    write_tar(here / "raw/a.tar", range(4))
    run(made)
    shutil.copy(here / "raw/a.tar", here / "raw/b.tar")
    assert run(made).rejects == {"duplicate_id": 4}
    assert run(made).note.startswith("nothing to do")
    (here / "raw/a.tar").unlink()
    assert dry_run(made).changed == 1
    took = run(made)
    assert (took.rows, took.rejects, took.moved_units) == (4, {}, 1)
    assert {row["uri"].partition("#")[0] for row in rows(made)} == {str(here / "raw/b.tar")}
    assert (problems(made), rejects(made)) == ([], [])
    assert run(made).note.startswith("nothing to do")


@pytest.mark.parametrize("id_", ["uri", pytest.param("key", marks=pytest.mark.slow)])
def test_the_same_files_under_another_pattern_are_there_once(id_: str, here: Path) -> None:
    write_files(here / "p")

    def named(pattern: str) -> Any:
        return job(here, {"format": "files", "id": id_, "uri": f"{here}/{pattern}", "caption": "txt"})

    assert run(named("p/")).rows == 4
    before = sorted(row["uri"] for row in rows(named("p/")))
    again = run(named("p/*.jpg"))
    assert (again.rows, again.rejects, again.moved_rows) == (4, {}, 4)
    assert sorted(row["uri"] for row in rows(named("p/"))) == before
    assert problems(named("p/")) == []
    assert run(named("p/*.jpg")).note.startswith("nothing to do")
