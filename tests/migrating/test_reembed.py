"""A set of another model beside the one in use: filled by whole runs with the stub model, of other dimensions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.reembed import Reembedded, reembed
from clipmill.jobs.migrating.reembed_plan import ReembedOptions, plan_reembed
from clipmill.jobs.migrating.retag import RetagOptions, retag
from clipmill.jobs.table import compat
from clipmill.jobs.terminal.progress import Progress, Snapshot
from clipmill.schemas.errors import EXIT_LATER, EXIT_USER
from clipmill.schemas.job.config import JobFile, Limits, Model
from clipmill.workers.load import load_engine
from clipmill.workers.tag import load_vocabulary
from tests.build import picture
from tests.conftest import S3
from tests.integration.help import job, problems, rows, run, tables, write_tar

pytestmark = pytest.mark.ray


def bucket(folder: Path, count: int = 2, *, model: str = "stub:8", **more: Any) -> JobFile:
    for number in range(count):
        write_tar(folder / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    source = {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}
    more = {"tags": {"vocabulary": "coco"}, **more}
    return job(folder, source, model={"name": model}, **more)


def options(model: str = "stub:16", **more: Any) -> ReembedOptions:
    return ReembedOptions(model=Model(name=model), **more)


def fill(made: JobFile, **more: Any) -> Reembedded:
    return reembed(made.table, made.storage, options(**more))


def expected(seeds: range, dim: int) -> Any:
    from clipmill.schemas.model import ModelSpec

    engine = load_engine(ModelSpec(name=f"stub:{dim}"))
    pixels = [engine.prepare(picture(seed), Limits()).pixels_CHW for seed in seeds]
    return engine.encode_images(np.stack(pixels)).astype(np.float16)


def test_every_row_is_filled_with_the_other_models_vectors_and_tags(here: Path) -> None:
    made = bucket(here, phash=True)
    run(made)
    before = rows(made)
    done = fill(made)
    assert (done.rows, done.filled, done.failed, done.left, done.rejects) == (6, 6, 0, 0, {})
    assert done.set == "stub_16"
    after = sorted(rows(made), key=lambda row: row["uri"])
    vectors = np.array([row["vector__stub_16"] for row in after], np.float16)
    assert np.array_equal(vectors, expected(range(6), 16))
    for row, old in zip(after, sorted(before, key=lambda row: row["uri"]), strict=True):
        assert {name: row[name] for name in old} == old
        assert len(row["caption_vector__stub_16"]) == 16
        score = float(np.dot(np.float32(row["vector__stub_16"]), np.float32(row["caption_vector__stub_16"])))
        assert row["caption_score__stub_16"] == pytest.approx(score, abs=0.01)
        assert len(row["tags__stub_16"]) == len(row["tag_scores__stub_16"])
    assert problems(made) == []
    again = fill(made)
    assert (again.run, again.filled, again.left) == ("", 6, 0)
    write_tar(here / "raw" / "2.tar", range(6, 9))
    run(bucket(here, 2))  # its job file does not ask for hashes; the table has them
    assert [row["phash"] for row in rows(made, "phash")].count(None) == 0
    assert len({row["phash"] for row in rows(made, "phash")}) == 9


def test_what_a_person_sees(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bucket(here)
    run(made)
    (here / "raw" / "1.tar").unlink()
    table = made.table
    assert cli.run(["reembed", table, "--model", "stub:8"]) == EXIT_USER
    assert "of stub:8 already" in capsys.readouterr().err
    assert cli.run(["reembed", table, "--model", "stub", "--set", "No Name"]) == EXIT_USER
    capsys.readouterr()
    assert cli.run(["reembed", table, "--model", "stub:32", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["set"], plan["exists"], plan["rows"], plan["fragments"]) == ("stub_32", False, 6, 2)
    assert plan["reading"]["streamed"] == plan["reading"]["pictures"] == 6
    assert plan["reading"]["requests"] == 2
    assert "together" in plan["reading"]["why"]

    holder = Lease(tables(made), "other", "reembed", key=FILL_KEY, ttl_s=0.6)
    holder.take(poll_s=0.05)
    holder.keep()
    try:
        assert cli.run(["reembed", table, "--model", "stub:32"]) == EXIT_LATER
    finally:
        holder.release()
    assert "is being written by `clipmill reembed`" in capsys.readouterr().err

    assert cli.run(["reembed", table, "--model", "stub:32", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["filled"], done["failed"], done["left"], done["rejects"]) == (3, 3, 0, {"not_found": 3})
    assert cli.run(["status", table, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sets"] == [
        {
            "set": "stub_32",
            "model": "stub:32",
            "dim": 32,
            "rows": 6,
            "filled": 3,
            "failed": 3,
            "left": 0,
            "rejects": {"not_found": 3},
            "heads": {},
        }
    ]
    assert (found["model"], found["balanced"], found["rejects"]) == ("stub:8", True, {})

    write_tar(here / "raw" / "1.tar", range(3, 6))
    assert fill(made, model="stub:32").filled == 3  # a reject stays one,
    again = fill(made, model="stub:32", again=True)  # until it is asked for
    assert (again.rows, again.filled, again.failed) == (3, 6, 0)


def test_another_pass_is_said_before_its_bar_begins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bucket(here)
    run(made)
    seen: list[tuple[int, int] | str] = []

    def show(self: Progress, now: Snapshot) -> None:
        seen.append((now.units_done, now.units_total))

    def say(self: Progress, text: str) -> None:
        seen.append(text)

    monkeypatch.setattr(Progress, "show", show)
    monkeypatch.setattr(Progress, "say", say)
    moved: list[str] = []

    def merge(step: str) -> None:
        if step == "before_fill" and not moved:
            moved.append(step)
            tables(made).open().optimize.compact_files()

    assert fill(made, hook=merge).filled == 6
    again = seen.index("another pass: 6 rows have no vector of 'stub_16' yet")
    for part in (seen[:again], seen[again + 1 :]):
        figures = [one for one in part if isinstance(one, tuple)]
        assert figures == sorted(figures)
    assert (2, 2) in seen[:again]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_model_beside_the_stub(here: Path) -> None:
    made = bucket(here)
    run(made)
    asked = ReembedOptions(model=Model(name="ViT-B-32", pretrained="random", precision="fp32"))
    done = reembed(made.table, made.storage, asked)
    assert (done.set, done.filled, done.left) == ("vit_b_32_random", 6, 0)
    vectors = np.array([row["vector__vit_b_32_random"] for row in rows(made)], np.float32)
    assert vectors.shape == (6, 512)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert plan_reembed(made.table, made.storage, asked).rows == 0


@pytest.mark.slow
def test_a_set_goes_on_with_its_own_vocabulary_after_the_tags_in_use_got_another(here: Path) -> None:
    made = bucket(here)
    run(made)
    fill(made)
    words = here / "words.yaml"
    words.write_text("labels: [red, green, blue]\ntemplates: ['a {label} thing']\n")
    retag(made.table, RetagOptions(vocabulary=str(words)), made.storage)
    write_tar(here / "raw" / "2.tar", range(6, 9))
    run(made.model_copy(update={"tags": made.tags.model_copy(update={"vocabulary": str(words)})}))
    assert fill(made).rows == 3
    schema = tables(made).open().schema
    hashes = [compat.stored_vocabulary(schema, column)["hash"] for column in ("tags", "tags__stub_16")]  # type: ignore[index]
    assert hashes[0] != hashes[1]
    coco = {label.name for label in load_vocabulary("coco").labels}
    found = {tag for row in rows(made, "tags__stub_16") for tag in row["tags__stub_16"]}
    assert found
    assert found <= coco


@pytest.mark.slow
@pytest.mark.s3
def test_a_whole_run_of_a_table_in_a_store(here: Path, s3: S3) -> None:
    for number in range(2):
        path = write_tar(here / f"{number}.tar", range(number * 3, number * 3 + 3))
        s3.put(f"raw/{number}.tar", path.read_bytes())
    storage = s3.storage.model_dump(exclude_none=True)
    source = {"format": "webdataset", "uri": f"{s3.uri}/raw/*.tar", "caption": "txt"}
    made = job(s3.uri, source, model={"name": "stub:8"}, storage=storage)  # type: ignore[arg-type]
    run(made)
    done = fill(made)
    assert (done.rows, done.filled, done.left, done.requests) == (6, 6, 0, 2)
    found = sorted(rows(made), key=lambda row: row["uri"])
    assert np.array_equal(np.array([row["vector__stub_16"] for row in found], np.float16), expected(range(6), 16))
    assert problems(made) == []
