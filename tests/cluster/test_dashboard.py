"""Addresses that are wrong, and nodes that do not fit: one sentence and a hint. A real cluster is in test_submit.py."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.cluster import parcel, preflight, submit
from clipmill.jobs.planning.jobfile import load_job
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import JobFile


@contextmanager
def web(answer: bytes, status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "status", "code", "said"),
    [
        (b"<html>", 200, 2, "is not Ray's dashboard"),
        (b"{}", 200, 2, "is not Ray's dashboard"),
        (b"", 404, 2, "is not Ray's dashboard"),
        (b"", 503, 1, "does not answer"),
        (b'{"ray_version": "2.9.0"}', 200, 2, "runs Ray 2.9.0, and this clipmill"),
    ],
)
def test_what_is_no_dashboard_of_our_ray_is_told(capsys, monkeypatch, answer: bytes, status: int, code: int, said: str):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with web(answer, status) as url:
        assert clipmill(["jobs", "--address", url]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "hint: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("http://127.0.0.1:9", 1, "does not answer at http://127.0.0.1:9"),
        ("http://no-such-host.invalid:8265", 1, "does not answer"),
        ("127.0.0.1:6379", 2, "not where jobs are submitted to"),
        ("ray://head:10001", 2, "not where jobs are submitted to"),
        ("http://me:secret@head:8265", 2, "carries"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(capsys, address: str, code: int, said: str):
    assert clipmill(["jobs", "--address", address]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "hint: " in err
    assert "secret" not in err


def test_nodes_that_do_not_fit_are_told_by_library():
    mine = preflight.here()
    assert preflight.wrong({"head": mine, "worker": mine}) == []
    old = {**mine, "pylance": "0.1.0", "digest": "another"}
    del old["open_clip_torch"]
    said = preflight.wrong({"head": mine, "worker": old})
    assert said[0] == "the worker has no open_clip_torch"
    assert said[1] == "the worker has pylance 0.1.0, not ==13.0.0"
    assert "another clipmill" in said[2]
    differ = preflight.wrong({"head": mine, "worker": {**mine, "torch": "99.0"}})
    assert differ == [f"torch is {mine['torch']} on the head, 99.0 on a worker"]


def test_what_is_sent_is_this_code_and_this_job(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("labels: [a dog, a cat]\n")
    Path("job.yaml").write_text(
        "table: s3://lake/db/images\n"
        'source: {format: files, uri: "s3://lake/raw/", keep: {license: {type: string, from: l}}}\n'
        "tags: {vocabulary: mine.yaml}\nlimits: {max_image_bytes: 50MB}\n"
    )
    job = load_job("job.yaml")
    (tmp_path / "sent").mkdir()
    assert parcel.pack(job, tmp_path / "sent") == []
    monkeypatch.chdir(tmp_path / "sent")  # the job's folder there
    there = load_job("job.yaml")
    assert there.tags.vocabulary == str(tmp_path / "sent" / "vocabulary.yaml")
    assert there.model_copy(update={"tags": job.tags}) == job
    assert "secret" not in Path("job.yaml").read_text()
    assert (tmp_path / "sent/clipmill/workers/actor.py").is_file()
    assert not (tmp_path / "sent/clipmill/workers").is_symlink()
    assert not list((tmp_path / "sent").rglob("*.pyc"))
    assert next((tmp_path / "sent").glob("*.dist-info/METADATA")).read_text()


def test_local_paths_are_made_whole_and_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("table: db/images\nsource: {format: files, uri: raw/}\n")
    (tmp_path / "sent").mkdir()
    left = parcel.pack(load_job("job.yaml"), tmp_path / "sent")
    assert left[0] == f"{tmp_path}/db/images"
    assert len(left) == 2
    sent = JobFile.model_validate(yaml.safe_load((tmp_path / "sent" / "job.yaml").read_text()))
    assert sent.table == f"{tmp_path}/db/images"


@pytest.mark.parametrize(("webhook", "sent"), [("env:HOOK", "env:HOOK"), ("https://hooks.example/T/abcdef", None)])
def test_no_secret_of_the_job_file_is_sent(tmp_path: Path, monkeypatch, capsys, webhook: str, sent: str | None):
    monkeypatch.chdir(tmp_path)
    text = 'table: s3://lake/db/images\nsource: {format: files, uri: "s3://lake/raw/"}\n'
    text += f'nightly: {{webhook: "{webhook}"}}\n'
    Path("job.yaml").write_text(text)
    (tmp_path / "sent").mkdir()
    parcel.pack(load_job("job.yaml"), tmp_path / "sent")
    there = (tmp_path / "sent" / "job.yaml").read_text()
    assert yaml.safe_load(there)["nightly"].get("webhook") == sent
    assert "abcdef" not in there
    words = ["job.yaml", "--address", "http://127.0.0.1:9"]
    for command, reached in (["submit", *words, "--command", "nightly"], 1), (["schedule", *words], 0):
        assert clipmill(command) == (reached if sent else 2)
        said = capsys.readouterr()
        assert "abcdef" not in said.out + said.err
        assert sent or "no secret is sent" in said.err


def test_a_head_without_an_agent_is_told_with_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two clusters on one machine are, whose agents want the same port."""

    class Client:
        def submit_job(self, **_: Any) -> None:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, try later..")

    monkeypatch.setattr(submit, "_STARTING_S", 0.0)
    with pytest.raises(ClipmillError, match=r"try later \(hint") as caught:
        submit._send(Client(), "http://head:8265", "true", {}, ("a-1", {}))
    assert "--dashboard-agent-listen-port" in caught.value.hint
