"""A job that cannot work says why in one sentence, and leaves nothing behind: no table, no folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.schemas.errors import EXIT_OTHER, EXIT_USER
from tests.conftest import S3
from tests.integration.conftest import write_job
from tests.integration.help import job, rows, run, versions, write_tar

pytestmark = pytest.mark.ray

CASES: dict[str, tuple[Mapping[str, Any], str]] = {
    "an unknown model": ({"model": {"name": "ViT-B-23"}}, "ViT-B-23"),
    "a checkpoint that is not there": ({"model": {"name": "ViT-B-32", "pretrained": "/no/such.pt"}}, "/no/such.pt"),
    "a damaged checkpoint": (
        {"model": {"name": "ViT-B-32", "pretrained": "broken.safetensors", "activation": "gelu"}},
        "broken.safetensors",
    ),
    "GPUs that nobody has": ({"workers": {"gpus": 8}}, "this machine has no GPUs like that"),
    "a vocabulary that is not there": ({"tags": {"vocabulary": "no-such.yaml"}}, "no-such.yaml"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] if "checkpoint" in name else []) for name in CASES]
)
def test_nothing_is_left(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, named = CASES[case]
    write_tar(here / "raw" / "a.tar", range(2))
    (here / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all")
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar"}
    file = write_job(here / "job.yaml", job(here, source, **changes))
    assert cli.run(["embed", str(file)]) == EXIT_USER
    said = capsys.readouterr()
    error, hint = said.err.strip().splitlines()[-2:]
    assert error.startswith("error: "), said.err
    assert named in error
    assert hint.startswith("hint: ")
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "Unhandled error" not in said.err
    assert not (here / "db").exists()


@pytest.mark.s3
@pytest.mark.parametrize("wrong", ["endpoint", "source bucket", pytest.param("table bucket", marks=pytest.mark.slow)])
def test_a_wrong_store_leaves_nothing(here: Path, s3: S3, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    s3.put("raw/a.tar", write_tar(here / "a.tar", range(2)).read_bytes())
    endpoint = "http://127.0.0.1:9" if wrong == "endpoint" else s3.endpoint
    made = job(
        "s3://no-such-bucket-here" if wrong == "table bucket" else s3.uri,
        {
            "format": "webdataset",
            "uri": "s3://no-such-bucket-here/raw/*.tar" if wrong == "source bucket" else f"{s3.uri}/raw/*.tar",
        },
        storage={"endpoint_url": endpoint, "region": "us-east-1"},
    )
    code = EXIT_OTHER if wrong == "endpoint" else EXIT_USER  # a store that does not answer may do so later
    assert cli.run(["embed", str(write_job(here / "job.yaml", made))]) == code
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert (endpoint if wrong == "endpoint" else "no-such-bucket-here") in error
    assert s3.keys() == ["raw/a.tar"]


def test_another_model_is_refused_and_the_table_stays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(here / "raw" / "a.tar", range(2))
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar"}
    made = job(here, source)
    run(made)
    before, found = versions(made), rows(made)
    write_tar(here / "raw" / "b.tar", range(2, 4))
    other = job(here, source, model={"name": "stub:8"})
    assert cli.run(["embed", str(write_job(here / "job.yaml", other))]) == EXIT_USER
    assert "stub:8" in capsys.readouterr().err
    assert rows(made) == found
    assert {part: version for part, version in versions(made).items() if part != "runs"} == {
        part: version for part, version in before.items() if part != "runs"
    }
