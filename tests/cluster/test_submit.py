"""submit, jobs and stop against a real head with a token, and raylets beside it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.planning.jobfile import load_job
from clipmill.schemas.job.config import JobFile
from tests.cluster.head import TOKEN, Head, head, kill
from tests.integration import help

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
SECRET = "secret-of-this-shell-000"


@pytest.fixture(scope="module")
def alone() -> Iterator[Head]:
    with head() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(alone: Head) -> Head:
    """Two workers, which take a tenth of a second for a picture."""
    for there in (1, 2):  # one after the other: that is quicker on two cores, and Ray ends a node that is late
        alone.worker(CLIPMILL_STUB_SLEEP_MS="100")
        alone.wait_for_nodes(1 + there)
    return alone


def test_the_image_s_health_check_finds_the_head_well(alone: Head) -> None:
    """By its own command line, without a token; its agent comes up after it."""
    line = f"/proc/{alone.nodes[0].pid}/cmdline"
    check = f"import health, pathlib; raise SystemExit(health.main(pathlib.Path({line!r})))"
    folder, until_s = Path(__file__).parents[2] / "deploy", time.monotonic() + 60
    asked = [sys.executable, "-c", check]
    while subprocess.run(asked, cwd=folder, env={}, capture_output=True, check=False).returncode:
        assert time.monotonic() < until_s
        time.sleep(0.5)
    other = [*asked[:2], check.replace(line, "/dev/stdin")]
    ill = "ray\0start\0--dashboard-agent-listen-port=1"
    assert (
        subprocess.run(other, cwd=folder, env={}, input=ill, text=True, capture_output=True, check=False).returncode
        == 1
    )


def clipmill(made: Head, *words: str, **more: str) -> "subprocess.Popen[str]":
    mine = {"RAY_AUTH_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": SECRET, "HOME": str(made.folder)}
    environment = {**os.environ, **mine, **more}
    environment.pop("RAY_AUTH_MODE", None)
    command = [sys.executable, "-m", "clipmill", *words]
    return subprocess.Popen(
        command, env=environment, cwd=made.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Within four minutes, or what it has said until then is shown."""
    try:
        out, err = process.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args} goes on and on: {out}{err}") from None
    return process.returncode, out, err


def answered(process: "subprocess.Popen[str]", code: int) -> tuple[dict[str, Any], str]:
    """What it printed as JSON, once it has ended with this code, and what it said beside it."""
    found, out, err = ended(process)
    assert found == code, err
    assert out, err
    data: dict[str, Any] = json.loads(out)
    return data, err


def job(made: Head, name: str, *, tars: int = 1, pictures: int = 3, bad: bool = False) -> str:
    """A job file in a folder of its own; relative paths in it are this machine's, as everywhere."""
    folder = made.folder / name
    for number in range(tars):
        help.write_tar(folder / "raw" / f"{number}.tar", range(number * pictures, (number + 1) * pictures))
    if bad:
        (folder / "raw" / "zip.tar").write_bytes(b"PK\x03\x04" + bytes(2000))
    (folder / "job.yaml").write_text(
        f"table: {name}/db/images\nsource: {{format: webdataset, uri: '{name}/raw/*.tar', caption: txt}}\n"
        "model: {name: stub}\ncommit: {every_s: 1}\n"
    )
    return str(folder / "job.yaml")


def rows(made: Head, name: str) -> int:
    return len(help.rows(there(made, name), "id"))


def there(made: Head, name: str) -> JobFile:
    """The job as commands in the cluster's folder read it."""
    return load_job(made.folder / name / "job.yaml", overrides={"table": f"{made.folder}/{name}/db/images"})


def listed(made: Head) -> str:
    """What anybody with the token sees."""
    with made.asked("/api/jobs/") as answer:
        text: str = answer.read().decode()
    return text


def test_a_head_without_workers_is_later_not_never(alone: Head) -> None:
    code, _, err = ended(clipmill(alone, "submit", job(alone, "none"), "--address", alone.url, "--wait-s", "5"))
    assert code == 5, err
    assert "gave a worker no room within 5 s; nodes: 1" in err
    assert "hint: start workers" in err
    assert json.loads(ended(clipmill(alone, "jobs", "--address", alone.url, "--json"))[1]) == []


def test_it_embeds_there_and_ends_with_the_drivers_own_code(cluster: Head) -> None:
    """Also where units failed, which Ray's own command calls exit code 1; no secret of this shell is sent."""
    good, bad = job(cluster, "good"), job(cluster, "bad", bad=True)
    both = [clipmill(cluster, "submit", one, "--address", cluster.url, "--follow", "--json") for one in (good, bad)]
    (out, err), (out_bad, err_bad) = answered(both[0], 0), answered(both[1], 3)
    assert (out["exit_code"], out["status"]) == (0, "SUCCEEDED"), err
    assert "3 rows" in err, "the log of a local run"
    assert "INFO dashboard_sdk" not in err
    assert "INFO sdk" not in err
    assert (out_bad["exit_code"], out_bad["status"]) == (3, "FAILED"), err_bad
    assert "zip.tar" in err_bad
    assert (rows(cluster, "good"), rows(cluster, "bad")) == (3, 3)
    assert re.fullmatch(r"clipmill-images-[0-9a-f]{6}-embed-1", out["id"])
    assert out["id"] != out_bad["id"]
    words = [
        "submit",
        good,
        "--command",
        "reembed",
        "--model",
        "stub:8",
        "--address",
        cluster.url,
        "--follow",
        "--json",
    ]
    assert answered(clipmill(cluster, *words), 0)[0]["command"] == "reembed"
    assert "vector__stub_8" in help.tables(there(cluster, "good")).open().schema.names
    words = ["submit", good, "--command", "nightly", "--address", cluster.url]
    assert answered(clipmill(cluster, *words, "--follow", "--json"), 0)[0]["command"] == "nightly"
    seen = listed(cluster)
    assert SECRET not in seen
    sent = [one["runtime_env"]["env_vars"] for one in json.loads(seen) if one["metadata"]]
    assert sent
    assert all(set(one) == {"RAY_JOB_STOP_WAIT_TIME_S", "PYTHONUNBUFFERED"} for one in sent)


def test_ctrl_c_leaves_it_a_second_submit_joins_it_and_stop_drains_it(cluster: Head) -> None:
    path = job(cluster, "long", tars=200, pictures=10)
    first = clipmill(cluster, "submit", path, "--address", cluster.url, "--follow")
    assert first.stderr is not None
    said = list(until(first.stderr, "stub on cpu"))
    (submission,) = {found for line in said for found in re.findall(r"^(clipmill-\S+): submitted", line)}
    first.send_signal(signal.SIGINT)
    code, _, err = ended(first)
    assert (code, "Traceback" in err) == (130, False), err
    assert f"left {submission}, which goes on" in err
    assert f"jobs {submission} --address {cluster.url} --follow" in err
    out, err = answered(clipmill(cluster, "submit", path, "--address", cluster.url, "--json"), 0)
    assert (out["id"], out["status"]) == (submission, "RUNNING")
    assert "under way already" in err
    assert "another job file" not in err
    Path(path).write_text(Path(path).read_text() + "thumbnails: true\n")
    assert "another job file" in ended(clipmill(cluster, "submit", path, "--address", cluster.url))[2]
    again = clipmill(cluster, "jobs", submission, "--address", cluster.url, "--follow")
    words = ["stop", submission, "--address", cluster.url, "--json"]
    assert answered(clipmill(cluster, *words), 0)[0]["status"] == "STOPPED"
    code, _, log = ended(again)
    assert code == 130
    assert "stopping after the" in log, "the driver drained"
    here = rows(cluster, "long")
    assert 0 < here < 2000
    assert help.problems(there(cluster, "long")) == []


def test_stop_now_does_not_wait_for_units_in_flight(cluster: Head) -> None:
    path = job(cluster, "huge", tars=2, pictures=2400)
    process = clipmill(cluster, "submit", path, "--address", cluster.url, "--follow")
    assert process.stderr is not None
    said = list(until(process.stderr, "stub on cpu"))
    (submission,) = {found for line in said for found in re.findall(r"^(clipmill-\S+): submitted", line)}
    started = time.monotonic()
    words = ["stop", submission, "--now", "--address", cluster.url, "--json"]
    assert answered(clipmill(cluster, *words), 0)[0]["status"] == "STOPPED"
    assert time.monotonic() - started < 200, "a unit takes four minutes"
    assert ended(process)[0] == 130


def test_nodes_that_go_and_come_lose_no_row(cluster: Head) -> None:
    path = job(cluster, "nodes", tars=30, pictures=10)
    process = clipmill(cluster, "submit", path, "--address", cluster.url, "--follow", "--json")
    assert process.stderr is not None
    list(until(process.stderr, "stub on cpu"))
    lost = cluster.nodes[-1]
    kill(lost)
    cluster.worker()
    assert answered(process, 0)[0]["exit_code"] == 0
    assert rows(cluster, "nodes") == 300
    assert help.problems(there(cluster, "nodes")) == []


@pytest.mark.parametrize(
    ("token", "said"), [("another-token-0123456789abcdef00", "refuses the token"), ("", "asks for a token")]
)
def test_a_token_that_is_wrong_or_missing_is_told(alone: Head, token: str, said: str) -> None:
    """To the dashboard, to the head itself and to where Ray's clients go."""
    embed = ["embed", job(alone, f"none{len(token)}"), "--address"]
    asked = [["jobs", "--address", alone.url]]
    asked += [[*embed, f"127.0.0.1:{alone.port}"], [*embed, f"ray://127.0.0.1:{alone.client}"]]
    for running in [clipmill(alone, *words, RAY_AUTH_TOKEN=token) for words in asked]:
        code, _, err = ended(running)
        assert code == 2
        assert said in err
        assert "hint: set RAY_AUTH_TOKEN" in err
        assert "Traceback" not in err
        assert "InvalidAuthToken" not in err
        assert not token or token not in err


def test_an_unknown_id_is_told(alone: Head) -> None:
    for words in (["jobs", "nobody"], ["stop", "nobody"], ["jobs", "nobody", "--follow"]):
        code, _, err = ended(clipmill(alone, *words, "--address", alone.url))
        assert (code, "knows no job nobody" in err, "hint:" in err) == (2, True, True)


def until(lines: Any, word: str) -> Iterator[str]:
    for line in lines:
        yield line
        if word in line:
            return
    raise AssertionError(f"{word!r} was not said")


def test_figures_of_a_run_come_out_of_rays_own_exporter(cluster: Head) -> None:
    """Under the names of the file with `ray_` in front, at the driver's node: counters that are 0 too, so that their
    first increase is seen."""
    from clipmill.jobs.observing.figures import METRICS

    job_file = job(cluster, "figures", tars=2)
    code, _, err = ended(clipmill(cluster, "embed", job_file, "--address", f"127.0.0.1:{cluster.port}"))
    assert code == 0, err
    living = [node for node in cluster.nodes if node.poll() is None]  # one was killed by a test before
    words = [str(word) for node in living for word in node.args]  # type: ignore[union-attr]
    ports = [word.partition("=")[2] for word in words if word.startswith("--metrics-export-port")]
    wanted = {f"ray_{metric.name}" for metric in METRICS}
    wanted -= {"ray_clipmill_rejects_total", "ray_clipmill_dollars_total"}  # no bad picture, and no price
    names: set[str] = set()
    text = ""
    until_s = time.monotonic() + 120
    while not wanted <= names and time.monotonic() < until_s:
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text += answer.read().decode()
        names = set(re.findall(r"^# TYPE (ray_clipmill\S+)", text, re.M))
        time.sleep(0.3)
    assert wanted <= names
    values = {float(one) for one in re.findall(r"^ray_clipmill_rows_total{.*} (\S+)", text, re.M)}
    assert 6.0 in values, "exactly, whatever a counter began with"
    assert re.search(r"^ray_clipmill_units_failed_total{.*} (5e-324|0(\.0)?)$", text, re.M)
