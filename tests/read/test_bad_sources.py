"""Jobs that only the store, the table or the model can tell to be wrong: one sentence, nothing written."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.jobs.cli import main as cli
from clipmill.schemas import errors
from clipmill.workers.store import errors as store_errors
from tests.fake_s3 import FakeS3
from tests.planning.test_bad_jobs import listing, refused
from tests.tables import TableOptions, make_table


def job(folder: Path, **changes: Any) -> str:
    """A job file in `folder` for one small tar, with the stub model; `section__key` changes a key."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    if not (raw / "0.tar").exists():
        with tarfile.open(raw / "0.tar", "w") as tar:
            for name, data in (("a.jpg", b"no image"), ("a.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    value: dict[str, Any] = {
        "table": f"{folder}/db/images",
        "source": {"format": "webdataset", "uri": f"{raw}/", "caption": "txt"},
        "model": {"name": "stub"},
    }
    for dotted, item in changes.items():
        section, _, key = dotted.partition("__")
        if key:
            value.setdefault(section, {})[key] = item
        else:
            value[section] = item
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(value))
    return str(file)


LOCAL: dict[str, tuple[dict[str, Any], str]] = {
    "no such folder": ({"source__uri": "{tmp}/absent/"}, "{tmp}/absent"),
    "no such file": ({"source__uri": "{tmp}/absent.tar"}, "{tmp}/absent.tar"),
    "glob of nothing": ({"source__uri": "{tmp}/raw/*.tgz"}, "*.tgz"),
    "folder without pictures": ({"source__uri": "{tmp}/empty/", "source__format": "files"}, "{tmp}/empty/"),
    "unknown scheme": ({"source__uri": "s4://lake/raw/*.tar"}, "s4://lake/raw/*.tar has a scheme that is not known"),
    "column that is not there": (
        {"source__uri": "{tmp}/rows.parquet", "source__format": "parquet", "source__image": "picture"},
        "picture",
    ),
    "vocabulary that is not there": ({"tags__vocabulary": "cocoo"}, "there is no vocabulary 'cocoo'"),
    "vocabulary file that is not there": ({"tags__vocabulary": "{tmp}/absent.yaml"}, "absent.yaml cannot be read"),
    "vocabulary file that is wrong": ({"tags__vocabulary": "{tmp}/bad.yaml"}, "bad.yaml, line 1: 'lables'"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_wrong_source_or_vocabulary_is_refused(capsys, tmp_path, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    changes, sentence = LOCAL[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("lables: [a]")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "rows.parquet")
    file = job(tmp_path, **{k: v and v.replace("{tmp}", str(tmp_path)) for k, v in changes.items()})
    before = listing(tmp_path)
    said, _ = refused(capsys, "embed", file)
    assert sentence.replace("{tmp}", str(tmp_path)) in said
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source__keep": {"owner": "string"}}, "source.keep names owner, which the table has no column for"),
        ({"source__keep": {"views": "string"}}, "source.keep.views is string, but the table's column is int64"),
        ({"thumbnails": True}, "the table was made without thumbnails"),
    ],
    ids=["new column", "other type", "thumbnails"],
)
def test_a_job_that_does_not_fit_the_table_is_refused(capsys, tmp_path, changes, sentence):
    uri = make_table(tmp_path / "db", TableOptions(rows=10))
    file = job(tmp_path, table=uri, **changes)
    before = listing(tmp_path)
    for command in ("plan", "embed"):
        said, _ = refused(capsys, command, file)
        assert sentence in said
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["status", "rejects", "verify", "search"])
def test_a_table_that_is_not_there(capsys, tmp_path, command):
    words = ["a red shoe"] if command == "search" else []
    said, hint = refused(capsys, command, f"{tmp_path}/db/images", *words)
    assert f"there is no table {tmp_path}/db/images" in said
    assert "clipmill embed" in hint
    assert not listing(tmp_path)


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_table_that_clipmill_did_not_make(capsys, tmp_path, command):
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"vector": [1.0]}), f"{tmp_path}/db/images.lance")
    said, _ = refused(capsys, command, f"{tmp_path}/db/images")
    assert "clipmill did not make it" in said


@pytest.mark.s3
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source__uri": "s3://no-such-bucket-here/raw/*.tar"}, "no-such-bucket-here"),
        ({"source__uri": "s3://{bucket}/absent/*.tar"}, "s3://{bucket}/absent/*.tar"),
        ({"source__uri": "s3://{bucket}/absent.tar"}, "s3://{bucket}/absent.tar"),
        ({"source__uri": "s3://Not_A_Bucket!/x/*.tar"}, "Not_A_Bucket!"),
        # Lance asks a missing bucket again and again for some ten seconds.
        pytest.param({"table": "s3://no-such-bucket-here/db/images"}, "no-such-bucket-here", marks=pytest.mark.slow),
    ],
    ids=["source bucket", "source prefix", "source object", "bucket name", "table bucket"],
)
def test_a_wrong_place_in_the_store_is_refused(capsys, tmp_path, s3, changes, sentence):
    filled = {k: v.replace("{bucket}", s3.bucket) for k, v in changes.items()}
    file = job(tmp_path, **{"table": f"{s3.uri}/db/images", **filled})
    said, _ = refused(capsys, "embed", file)
    assert sentence.replace("{bucket}", s3.bucket) in said
    assert s3.keys() == []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.001)
    monkeypatch.setattr(store_errors, "_FIRST_WAIT_S", 0.001)
    with FakeS3().running() as store:
        yield store


@pytest.mark.parametrize(
    ("fault", "sentence"), [("ignores_conditions", "If-None-Match: * is not atomic"), ("ignores_ranges", "ranged GET")]
)
def test_a_store_that_would_lose_commits_is_refused(capsys, tmp_path, fake, fault, sentence):
    setattr(fake, fault, True)
    file = job(tmp_path, table="s3://b/db/images", storage={"endpoint_url": fake.endpoint}, source__uri="s3://b/raw/")
    with open(tmp_path / "raw" / "0.tar", "rb") as tar:
        fake.objects["raw/0.tar"] = tar.read()
    said, _ = refused(capsys, "embed", file)
    assert sentence in said
    assert list(fake.objects) == ["raw/0.tar"]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_a_store_that_refuses_us_is_named(capsys, tmp_path, fake, code):
    fake.before = lambda method, key: (403, code)
    file = job(tmp_path, source__uri="s3://b/raw/", storage={"endpoint_url": fake.endpoint})
    before = listing(tmp_path)
    said, hint = refused(capsys, "embed", file)
    assert "s3://b/raw" in said
    assert "s3:ListBucket" in hint or "AWS_ACCESS_KEY_ID" in hint
    assert "very-secret-value" not in said + hint
    assert listing(tmp_path) == before


def test_an_endpoint_that_nobody_answers_at(capsys, tmp_path, fake):
    file = job(tmp_path, source__uri="s3://b/raw/", storage={"endpoint_url": "http://127.0.0.1:1"})
    _, hint = refused(
        capsys, "embed", file, code=errors.EXIT_OTHER
    )  # it may be back in a moment: a scheduler may retry
    assert "storage.endpoint_url" in hint


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "sentence", "hint"),
    [
        ({"name": "ViT-B-23", "pretrained": "openai"}, "ViT-B-23", "ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "laion3b"}, "laion3b", "laion2b"),
        ({"name": "ViT-B-32"}, "ViT-B-32", "pretrained"),
    ],
    ids=["architecture", "tag", "no weights"],
)
def test_a_model_that_is_not_there_is_refused(tmp_path, model, sentence, hint):
    """In a process of its own, because the command starts a cluster and leaves the current directory."""
    command = [
        sys.executable,
        "-m",
        "clipmill",
        "embed",
        job(tmp_path, model=model),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    said, advice = done.stderr.splitlines()[-2:]
    assert said.startswith("error: ")
    assert sentence in said
    assert hint in said + advice
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "db" / "images.lance").exists()


def test_plan_says_what_would_be_done_and_writes_nothing(capsys, tmp_path):
    file = job(tmp_path, plan={"price_per_gpu_hour": 2.0})
    before = listing(tmp_path)
    assert cli.run(["plan", file, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["units"], plan["new"], plan["done"], plan["gone"], plan["exists"]) == (1, 1, 0, 0, False)
    assert plan["bytes"] == (tmp_path / "raw" / "0.tar").stat().st_size
    assert (plan["worker_hours"], plan["dollars"]) == (None, None)  # no run yet to go by
    assert listing(tmp_path) == before
