"""Whole nights with heads in the job, a set with heads of its own beside, and a second vocabulary: all keep up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipmill.jobs.cli import main as cli
from clipmill.jobs.migrating.promote import How, promote
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.publishing import nightly as module
from clipmill.jobs.publishing.night import Night
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.verifying.status import status
from clipmill.schemas.job.config import JobFile
from tests.integration.help import job, problems, rows, versions, write_tar

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SET, SIDE = "stub_16", "tags__side"


def night(made: JobFile) -> Night:
    return nightly(made, say=lambda _: None)


def weights(seed: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, dim)).astype(np.float32)


def head_file(path: Path, seed: int, dim: int) -> str:
    save_file({"weight": weights(seed, dim), "bias": np.zeros(1, np.float32)}, path)
    return str(path)


def scored(made: JobFile, column: str, vector: str, seed: int, dim: int) -> int:
    """Rows; each has the score of that head on the vector that is stored."""
    found = rows(made, column, vector)
    for row in found:
        stored = np.asarray(row[vector], np.float64)
        assert row[column] == pytest.approx(stored @ weights(seed, dim)[0] / np.linalg.norm(stored), abs=1e-4)
    return len(found)


def columns(found: Night) -> dict[str, tuple[int, int]]:
    return {one["column"]: (one["new"], one["left"]) for one in found.columns}


def test_a_week_with_heads(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        write_tar(here / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar", "caption": "txt"}
    old, new = head_file(here / "old.safetensors", 1, 8), head_file(here / "new.safetensors", 2, 16)
    made = job(here, source, model={"name": "stub:8"}, tags={"vocabulary": "coco"}, heads={"aesthetic": old})
    assert night(made).status == "published"
    assert scored(made, "aesthetic", "vector", 1, 8) == 6

    # A set with a head of its own, by the command; and a second vocabulary.
    capsys.readouterr()
    asked = ["reembed", made.table, "--model", "stub:16", "--head", f"aesthetic={new}", "--json"]
    assert cli.run(asked) == 0
    assert json.loads(capsys.readouterr().out)["filled"] == 6
    assert scored(made, f"aesthetic__{SET}", f"vector__{SET}", 2, 16) == 6
    assert cli.run(["retag", made.table, "--vocabulary", "scenes", "--as", "side", "--min-score", "0"]) == 0
    assert night(made).status == "published"

    # The job's head is another now, and rows come: a night brings all of it to readers at once.
    head_file(here / "old.safetensors", 3, 8)
    write_tar(here / "raw" / "2.tar", range(6, 9))
    found = night(made)
    assert (found.status, found.live_after) == ("published", found.versions["rows"]), found
    assert columns(found) == {f"aesthetic__{SET}": (3, 0), SIDE: (3, 0)}
    assert scored(made, "aesthetic", "vector", 3, 8) == 9
    assert scored(made, f"aesthetic__{SET}", f"vector__{SET}", 2, 16) == 9
    assert all(row[SIDE] for row in rows(made, SIDE))
    assert not problems(made)
    before = versions(made)
    assert (night(made).status, versions(made)) == ("nothing", before)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    write_tar(here / "raw" / "3.tar", range(9, 12))
    with monkeypatch.context() as patch:
        patch.setattr(module, "fill_columns", killed)
        with pytest.raises(KeyboardInterrupt):
            night(made)
    assert status(made.table, made.storage).sets[0]["heads"] == {"aesthetic": 3}
    later = night(made)
    assert (later.status, later.came, columns(later)) == ("published", 0, columns(found))

    # The other model takes over: its head is the job's now, and the first one is kept up beside it.
    promote(made.table, SET, made.storage, GateOptions(min_overlap=0.0), How(say=lambda _: None, settle_s=0.0))
    heads = {"aesthetic": new}
    then = job(here, source, model={"name": "stub:16"}, tags={"vocabulary": "coco"}, heads=heads)
    write_tar(here / "raw" / "4.tar", range(12, 15))
    after = night(then)
    assert (after.status, columns(after)) == ("published", {"aesthetic__stub_8": (3, 0), SIDE: (0, 3)}), after
    assert scored(then, "aesthetic", "vector", 2, 16) == 15
    assert scored(then, "aesthetic__stub_8", "vector__stub_8", 3, 8) == 15
    assert "a set was promoted since" in next(one["note"] for one in after.columns if one["column"] == SIDE)
