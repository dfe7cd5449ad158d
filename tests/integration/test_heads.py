"""Heads in a job file: computed with the rows, brought up to date with the file, refused before anything starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipmill.jobs.planning.dry_run import dry_run
from clipmill.schemas.columns import HEAD_KEY
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from tests.integration.help import job, problems, rows, run, tables, write_tar

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DIM = 16  # of the stub


def head_file(path: Path, seed: int, dim: int = DIM, **said: str) -> Path:
    weight = np.random.default_rng(seed).standard_normal((1, dim)).astype(np.float32)
    save_file({"weight": weight, "bias": np.float32([seed])}, path, metadata=said or None)
    return path


def bucket(folder: Path, **heads: object) -> JobFile:
    return job(folder, {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}, heads=heads)


def scored(made: JobFile, seed: int, name: str = "aesthetic") -> int:
    """Rows; each has the score of the head of that seed, to the last bits."""
    weight = np.random.default_rng(seed).standard_normal(DIM)
    found = rows(made, "vector", name)
    for row in found:
        stored = np.asarray(row["vector"], np.float64)
        assert row[name] == pytest.approx(stored @ weight / np.linalg.norm(stored) + seed, abs=1e-4)
    return len(found)


def test_a_head_keeps_itself_up(here: Path) -> None:
    write_tar(here / "raw" / "0.tar", range(3), bad=1)
    made = bucket(here, aesthetic=str(head_file(here / "a.safetensors", 1)))
    summary = run(made, publish=True)
    assert summary.filled["aesthetic"] == 3
    assert scored(made, 1) == 3
    write_tar(here / "raw" / "1.tar", range(3, 5))
    run(made)
    assert scored(made, 1) == 5

    head_file(here / "a.safetensors", 2)  # the same name, other numbers, and nothing to embed
    idle = run(made, publish=True)
    assert (idle.run, scored(made, 2)) == ("", 5)
    assert "5 rows scored by the head 'aesthetic'" in idle.note
    assert idle.live == idle.table_version
    version = tables(made).open().version
    run(made)
    assert tables(made).open().version == version

    # A second head and a changed one, with rows that are new at the same time.
    write_tar(here / "raw" / "2.tar", range(5, 7))
    head_file(here / "a.safetensors", 3)
    nsfw = {"file": str(head_file(here / "n.safetensors", 4))}
    both = bucket(here, aesthetic=str(here / "a.safetensors"), nsfw=nsfw)
    run(both)
    assert scored(both, 3) == scored(both, 4, "nsfw") == 7
    schema = tables(both).open().schema
    about = json.loads(schema.field("nsfw").metadata[HEAD_KEY])
    assert (about["file"], about["model"]) == ("n.safetensors", "stub")
    assert problems(both) == []
    # A job that names none adds rows without a score; named again, they get theirs.
    write_tar(here / "raw" / "3.tar", range(7, 8))
    run(bucket(here))
    assert [row["nsfw"] for row in rows(both, "nsfw")].count(None) == 1
    run(both)
    assert scored(both, 4, "nsfw") == 8


def test_a_head_of_another_model_is_refused_before_anything_starts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(here / "raw" / "0.tar", range(3))
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar", "keep": {"license": "string"}}
    run(job(here, source))

    def no_cluster(*_: object) -> None:
        pytest.fail("a cluster was started")

    monkeypatch.setattr("clipmill.jobs.running.run.run_units", no_cluster)
    write_tar(here / "raw" / "1.tar", range(3, 5))
    wide = head_file(here / "wide.safetensors", 1, dim=512)
    other = head_file(here / "other.safetensors", 1, model="stub", weights_sha256="ab" * 32)
    fits = head_file(here / "fits.safetensors", 1)
    for head, word in (
        (str(wide), "512 numbers, those of stub have 16"),
        (str(other), "weights abababab, not on those of stub"),
        ({"file": str(fits), "trained_on": "ViT-L-14,openai"}, r"vectors of ViT-L-14,openai, not of stub"),
        (str(here / "absent.npz"), "no file"),
    ):
        made = bucket(here, aesthetic=head)
        for asked in (run, dry_run):
            with pytest.raises(UserError, match=word) as refused:
                asked(made)
            assert refused.value.hint
    with pytest.raises(UserError, match="'license' is a column"):
        run(bucket(here, license=str(fits)))
    # Of a model whose width is known without loading it, and without a table.
    tiny = bucket(here / "new", aesthetic=str(head_file(here / "tiny.safetensors", 1, dim=511)))
    model = made.model.model_copy(update={"name": "clipmill-tiny"})
    with pytest.raises(UserError, match=r"511 numbers, those of clipmill-tiny have \d+"):
        dry_run(tiny.model_copy(update={"model": model}))
