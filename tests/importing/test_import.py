"""Vectors of other tools become a table like any other: nothing lost, nothing twice, what is wrong named."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.cli.main import run as command
from clipmill.jobs.importing.check import lengths
from clipmill.jobs.importing.ids import TakenIds
from clipmill.jobs.importing.request import Imported, ImportOptions, Names
from clipmill.jobs.importing.run import import_vectors
from clipmill.jobs.importing.words import describe
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.table import compat, ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import rejects as read_rejects
from clipmill.jobs.verifying.status import status
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Commit, JobFile, Storage
from clipmill.workers.stub import StubEngine
from tests.conftest import S3
from tests.importing.files import DIM, MODEL, Pictures, write_partition

ROOT = Path(__file__).resolve().parents[2]
EACH = Commit.model_validate({"every_rows": 1, "every_s": 3600})  # a commit for each file


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("pictures"), 24)


class World:
    """A folder with what is imported, and the table."""

    def __init__(self, folder: Path, pictures: Pictures) -> None:
        self.pictures, self.vectors, self.table = pictures, folder / "out", str(folder / "db" / "images")
        self.tables = Tables.at(self.table)

    def run(self, *, pictures: bool = True, **changes: Any) -> Imported:
        folder = str(self.pictures.folder) if pictures else None
        options = ImportOptions(vectors=str(self.vectors), model=MODEL, pictures=folder, commit=EACH)
        return import_vectors(self.table, replace(options, **changes), Storage())

    def ids(self) -> list[str]:
        return sorted(self.tables.open().to_table(columns=["id"])["id"].to_pylist())

    def problems(self) -> list[str]:
        return verify(self.table, Storage()).problems

    def reasons(self) -> dict[str, str]:
        found = read_rejects(self.table, Storage())
        return dict(zip(found["id"].to_pylist(), found["reason"].to_pylist(), strict=True))


@pytest.fixture
def world(tmp_path: Path, pictures: Pictures) -> World:
    return World(tmp_path, pictures)


def test_clip_retrievals_folder_becomes_a_table_that_is_searched_and_verified(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pictures.clip_retrieval(world.vectors, "0", slice(0, 10))
    world.pictures.clip_retrieval(world.vectors, "1", slice(10, 24))
    done = world.run(names=Names(keep=("similarity",)), vocabulary="scenes")
    assert (done.rows, done.rejects, done.units, done.commits) == (24, {}, 2, 2)
    assert (done.proof.state, done.proof.pictures, done.proof.captions) == ("proven", 16, 16)
    assert done.proof.cosine is not None
    assert done.proof.cosine > 0.999
    rows = world.tables.open().to_table()
    assert rows["id"].to_pylist() == world.pictures.names
    assert rows["uri"][3].as_py() == f"{world.pictures.folder}/{world.pictures.names[3]}"
    assert rows["caption"].to_pylist() == world.pictures.captions
    stored_ND = np.stack(rows["vector"].to_numpy(zero_copy_only=False))
    assert np.array_equal(stored_ND, world.pictures.vectors_ND.astype(np.float16))
    cosines_N = (world.pictures.vectors_ND * world.pictures.texts_ND).sum(axis=1)
    assert np.allclose(rows["caption_score"], cosines_N, atol=2e-3)
    assert set(rows["similarity"].to_pylist()) == {0.25}
    assert world.problems() == []
    entries = ledger.read_ledger(world.tables).values()
    assert sorted((Path(e.uri).name, e.seen, e.written, e.format) for e in entries) == [
        ("img_emb_0.npy", 10, 10, "import"),
        ("img_emb_1.npy", 14, 14, "import"),
    ]
    found = status(world.table, Storage())
    assert found.balanced
    assert found.proof.startswith("proven: 16 pictures")
    assert found.vocabulary == "scenes"
    assert found.last_runs[-1]["command"] == "import"
    assert found.last_runs[-1]["event"] == "import-finished"
    # The tags are those that `verify` makes of the stored vectors again, with the model.
    report = verify(world.table, Storage(), sample=5, allow_sources=[str(world.pictures.folder)])
    assert report.problems == []
    assert command(["search", world.table, "picture number 4", "--column", "caption_vector", "--json", "-k", "1"]) == 0
    said = capsys.readouterr()
    (hit,) = json.loads(said.out)
    assert hit["id"] == world.pictures.names[4]
    assert "proof" not in hit
    assert "unproven" not in said.err


def test_a_second_import_does_nothing_and_what_changed_is_replaced(world: World) -> None:
    world.pictures.clip_retrieval(world.vectors, "0", slice(0, 10))
    world.pictures.clip_retrieval(world.vectors, "1", slice(10, 20))
    version = world.run().table_version
    again = world.run()
    assert again.note == "nothing to do: all 2 files are in the table"
    assert (again.already_done, again.table_version) == (2, version)
    assert int(world.tables.open().version) == version
    world.pictures.clip_retrieval(world.vectors, "0", slice(0, 6))  # four rows less
    world.pictures.clip_retrieval(world.vectors, "2", slice(6, 8))  # two of them are in another file now
    done = world.run()
    assert (done.rows, done.rejects, done.replaced_units, done.already_done) == (8, {}, 1, 1)
    assert "the rows of 1 changed file were replaced" in describe(done).splitlines()
    assert world.ids() == sorted([*world.pictures.names[:8], *world.pictures.names[10:20]])
    assert world.problems() == []
    (world.vectors / "img_emb" / "img_emb_1.npy").unlink()
    (world.vectors / "metadata" / "metadata_1.parquet").unlink()
    (world.vectors / "text_emb" / "text_emb_1.npy").unlink()
    assert "nothing to do" in world.run().note
    assert len(world.ids()) == 18


def test_each_bad_row_is_a_reject_that_says_why(world: World) -> None:
    vectors_ND = world.pictures.vectors_ND[:12].astype(np.float16)
    vectors_ND[1, 3] = np.nan
    vectors_ND[2, 0] = np.inf
    vectors_ND[3] = 0
    vectors_ND[4] *= np.float16(3)
    vectors_ND[5] *= np.float16(1.005)  # half precision's own error: scaled, and kept
    names = [*world.pictures.names[:10], world.pictures.names[0], ""]
    write_partition(world.vectors, "0", vectors_ND=vectors_ND, metadata={"image_path": names})
    dry = world.run(pictures=False, dry_run=True)
    assert not world.tables.exists()
    assert not world.tables.exists("runs")
    done = world.run(pictures=False)
    want = {"not_finite": 3, "not_unit": 1, "duplicate_id": 1, "bad_metadata": 1}
    assert dry.rejects == done.rejects == want
    assert (dry.rows, dry.refused) == (done.rows, done.refused)
    assert (done.seen, done.rows) == (12, 6)
    assert {n: world.reasons()[world.pictures.names[n]] for n in (1, 2, 3, 4, 0)} == {
        1: "not_finite",
        2: "not_finite",
        3: "not_finite",
        4: "not_unit",
        0: "duplicate_id",
    }
    assert any("length 3, not 1" in line for line in done.refused), done.refused
    assert world.problems() == []
    assert "nothing to do" in world.run(pictures=False).note
    scaled = world.run(pictures=False, normalize=True)  # another option makes other units of the same files
    assert scaled.rejects == {name: count for name, count in want.items() if name != "not_unit"}
    assert (scaled.rows, scaled.replaced_units) == (7, 1)
    assert world.problems() == []


def test_vectors_that_were_never_scaled_are_refused_with_what_helps(world: World) -> None:
    write_partition(
        world.vectors, "0", vectors_ND=world.pictures.vectors_ND * 7, metadata={"image_path": world.pictures.names}
    )
    with pytest.raises(
        UserError, match=r"24 of the first 24 vectors of \S+ are not of unit length: .* 7, not 1"
    ) as told:
        world.run(prove=0)
    assert "--normalize" in told.value.hint
    assert not world.tables.exists()
    done = world.run(normalize=True)
    assert (done.rows, done.proof.state) == (24, "proven")
    assert world.problems() == []


def _cut(folder: Path) -> None:
    file = folder / "img_emb" / "img_emb_0.npy"
    file.write_bytes(file.read_bytes()[:-5])


def _pickled(folder: Path) -> None:
    np.save(folder / "img_emb" / "img_emb_0.npy", np.array([{"a": 1}] * 24, dtype=object), allow_pickle=True)


def _fewer_rows(folder: Path) -> None:
    np.save(folder / "img_emb" / "img_emb_0.npy", np.ones((23, DIM), np.float16))


def _another_width(folder: Path) -> None:
    np.save(folder / "img_emb" / "img_emb_0.npy", np.ones((24, DIM + 1), np.float16))


def _no_metadata(folder: Path) -> None:
    (folder / "metadata" / "metadata_0.parquet").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_cut, "its header promises"),
        (_pickled, "not one matrix of floats"),
        (_fewer_rows, "img_emb_0.npy has 23 rows, .*metadata_0.parquet has 24"),
        (_another_width, "have 17 numbers, the model's have 16"),
        (_no_metadata, "metadata_0.parquet is missing"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_nothing_is_written(world: World, harm: Any, said: str) -> None:
    world.pictures.clip_retrieval(world.vectors, texts=False)
    harm(world.vectors)
    with pytest.raises(UserError, match=said):
        world.run()
    assert not world.tables.exists()


def test_a_swapped_row_is_named_and_the_table_is_not_proven(world: World) -> None:
    order = np.arange(24)
    order[[5, 9]] = [9, 5]
    write_partition(
        world.vectors,
        "0",
        vectors_ND=world.pictures.vectors_ND[order].astype(np.float16),
        metadata={"image_path": world.pictures.names},
    )
    done = world.run(prove=24)
    assert sorted((one.place, one.of_row) for one in done.proof.wrong) == [(5, 9), (9, 5)]
    assert done.proof.state == "unproven"
    assert done.rejects == {"wrong_vector": 2}
    assert world.reasons() == {world.pictures.names[n]: "wrong_vector" for n in (5, 9)}
    assert "2 of 24 rows of the sample" in status(world.table, Storage()).proof
    assert world.problems() == []


def test_another_model_and_another_order_are_refused(world: World) -> None:
    others_ND = StubEngine(DIM).encode_texts([f"of another model {n}" for n in range(24)])
    write_partition(world.vectors, "0", vectors_ND=others_ND, metadata={"image_path": world.pictures.names})
    with pytest.raises(UserError, match="these vectors are not of model stub: of 16 pictures embedded again, 16 give"):
        world.run()
    moved_ND = np.roll(world.pictures.vectors_ND, 1, axis=0)
    write_partition(world.vectors, "0", vectors_ND=moved_ND, metadata={"image_path": world.pictures.names})
    with pytest.raises(UserError, match=r"in another order than the rows: .* row \d+ holds its picture's"):
        world.run()
    write_partition(
        world.vectors,
        "0",
        vectors_ND=world.pictures.vectors_ND,
        texts_ND=others_ND,
        metadata={"image_path": world.pictures.names, "caption": world.pictures.captions},
    )
    with pytest.raises(UserError, match="the caption vectors are not of model stub") as told:
        world.run(pictures=False)
    assert "--no-caption-vectors" in told.value.hint
    assert not world.tables.exists()
    assert world.run(texts=False).proof.state == "proven"


def test_without_pictures_the_table_says_that_nobody_has_shown_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pictures.clip_retrieval(world.vectors, texts=False)
    done = world.run(pictures=False)
    assert (done.rows, done.proof.state, done.proof.why) == (24, "unproven", "no picture was at hand")
    assert status(world.table, Storage()).proof == "unproven: no picture was at hand"
    report = verify(world.table, Storage())
    assert report.proof == "unproven: no picture was at hand"
    assert report.problems == []
    assert command(["search", world.table, "anything", "--json", "-k", "2"]) == 0
    said = capsys.readouterr()
    assert [hit["proof"] for hit in json.loads(said.out)] == ["unproven"] * 2
    assert len([line for line in said.err.splitlines() if line.startswith("unproven: ")]) == 1
    job = JobFile.model_validate(
        {"table": world.table, "source": {"format": "files", "uri": "/nowhere/"}, "model": {"name": "stub"}}
    )
    with pytest.raises(UserError, match="never shown to be of stub"):
        compat.check_table(world.tables.open().schema, job, None, None)
    proven = world.run()  # the same files, with pictures: nothing is written twice
    assert (proven.rows, proven.already_done, proven.proof.state) == (0, 1, "proven")
    assert status(world.table, Storage()).proof.startswith("proven: 16 pictures")
    compat.check_table(world.tables.open().schema, job, None, None)
    # New rows that nobody can vouch for take the mark away again, before the first of them is there.
    others_ND = StubEngine(DIM).encode_texts(["a", "b"])
    write_partition(
        world.vectors, "1", vectors_ND=others_ND, metadata={"image_path": ["a", "b"], "caption": ["a", "b"]}
    )
    assert world.run(pictures=False).rows == 2
    assert status(world.table, Storage()).proof.startswith("unproven")


@pytest.mark.parametrize(("step", "times"), [("after_rows", 2), pytest.param("before_rows", 3, marks=pytest.mark.slow)])
def test_killed_between_commits_it_goes_on_without_loss_or_double(world: World, step: str, times: int) -> None:
    for number in range(4):
        world.pictures.clip_retrieval(world.vectors, str(number), slice(number * 6, number * 6 + 6), texts=False)
    argv = [sys.executable, "-m", "tests.importing.killed", str(world.vectors), world.table, step, str(times)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    there = len(world.ids())
    assert there == 12, "it died in the middle"
    done = world.run(prove=0)
    assert (done.rows, done.healed_units) == (12, 1 if step == "after_rows" else 0)
    assert world.ids() == world.pictures.names
    assert world.problems() == []


def test_parquet_and_lance_give_the_same_rows(world: World) -> None:
    world.pictures.clip_retrieval(world.vectors, texts=False)
    world.run()
    want = world.tables.open().to_table(columns=["id", "caption", "vector", "image_hash"])
    table = world.pictures.table()
    folder = world.vectors.parent
    pq.write_table(table, folder / "v.parquet", row_group_size=7)
    lists = table.set_column(2, "embedding", table["embedding"].cast(pa.list_(pa.float32())))
    pq.write_table(lists, folder / "lists.parquet")
    lance.write_dataset(table, str(folder / "v.lance"), max_rows_per_file=10)
    for number, source in enumerate(("v.parquet", "lists.parquet", "v.lance", "v")):
        other = World(folder / str(number), world.pictures)
        other.vectors = folder / source
        done = other.run(names=Names(id="key", uri="key"))
        assert (done.rows, done.proof.state) == (24, "proven"), source
        assert other.tables.open().to_table(columns=want.column_names).equals(want), source
        assert other.problems() == []


def test_of_a_lance_table_only_what_is_new_is_imported(world: World) -> None:
    table = world.pictures.table()
    world.vectors = world.vectors.with_suffix(".lance")
    lance.write_dataset(table.slice(0, 10), str(world.vectors))
    names = Names(id="key", uri="key")
    assert world.run(names=names).rows == 10
    lance.write_dataset(table.slice(10), str(world.vectors), mode="append")
    done = world.run(names=names)
    assert (done.rows, done.already_done, done.rejects) == (14, 1, {})
    source = lance.dataset(str(world.vectors))
    source.delete(f"key = '{world.pictures.names[3]}'")
    source.optimize.compact_files()
    done = world.run(names=names)
    assert (done.rows, done.rejects, done.replaced_units) == (23, {}, 2)
    assert world.ids() == [name for name in world.pictures.names if name != world.pictures.names[3]]
    assert world.problems() == []


def test_a_row_that_a_person_had_deleted_stays_away(world: World) -> None:
    world.pictures.clip_retrieval(world.vectors, texts=False)
    world.run()
    gone = world.pictures.names[2]
    assert command(["delete", world.table, "--where", f"id = '{gone}'", "--yes"]) == 0
    world.pictures.clip_retrieval(world.vectors, rows=slice(0, 8), texts=False)
    done = world.run()
    assert (done.rows, done.rejects) == (7, {"deleted": 1})
    assert gone not in world.ids()
    assert world.problems() == []


def test_rows_that_no_job_lists_are_not_gone(world: World) -> None:
    world.pictures.clip_retrieval(world.vectors, texts=False)
    world.run()
    assert make_plan([], ledger.read_ledger(world.tables)).gone == ()


@pytest.mark.slow
def test_from_a_store_into_a_store(s3: S3, pictures: Pictures, tmp_path: Path) -> None:
    pictures.clip_retrieval(tmp_path, "0", slice(0, 10))
    for file in tmp_path.rglob("*.*"):
        s3.put(f"out/{file.relative_to(tmp_path)}", file.read_bytes())
    for name in pictures.names[:10]:
        s3.put(f"pictures/{name}", (pictures.folder / name).read_bytes())
    table = f"s3://{s3.bucket}/db/images"
    options = ImportOptions(
        vectors=f"s3://{s3.bucket}/out", model=MODEL, pictures=f"s3://{s3.bucket}/pictures", prove=5
    )
    done = import_vectors(table, options, s3.storage)
    assert (done.rows, done.proof.state, done.rejects) == (10, "proven", {})
    assert verify(table, s3.storage).problems == []
    assert "nothing to do" in import_vectors(table, options, s3.storage).note


def test_lengths_of_half_precision_are_those_of_numpy() -> None:
    drawn_BD = np.random.default_rng(0).standard_normal((300, DIM))
    for scale in (1.0, 1e-3, 1e-7):  # down to denormal numbers
        half_BD = (drawn_BD * scale).astype(np.float16)
        assert np.allclose(lengths(half_BD), np.linalg.norm(half_BD.astype(np.float64), axis=1), rtol=1e-5)
    half_BD = np.array([[np.nan, 0], [np.inf, 0], [0, -np.inf], [0, 0], [-1, 0]], np.float16)
    assert (np.abs(lengths(half_BD) - 1) < 0.1).tolist() == [False, False, False, False, True]


def test_ids_are_taken_once_whatever_the_order_they_came_in() -> None:
    rng = np.random.default_rng(0)
    taken, seen = TakenIds(), set[str]()
    for _ in range(30):
        names = [str(n) for n in rng.integers(0, 4000, int(rng.integers(0, 400)))]
        want = [name in seen or name in names[:at] for at, name in enumerate(names)]
        assert taken.add(pa.array(names, pa.string())).tolist() == want
        seen |= set(names)
