"""Fixtures that reach real things: pictures in a folder, and an S3 server over HTTP."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.job.config import Storage
from tests.examples import load_profile
from tests.side_by_side import first, scheduler
from tests.tables import TableOptions, WordEngine, make_table

_STARTUP_S = 60.0

# Ray's own 30 s are too few for a busy machine; set before any test imports ray.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

# OpenMP's threads else turn in circles while they wait for each other: on a machine whose cores are taken, by another
# process of these tests for one, torch so takes twice the processor's time. Set before any test imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

load_profile()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first(items)


NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so for a moment it is nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def heeding(*numbers: int) -> Iterator[None]:
    """What is started in here does not ignore these signals, also where the tests do: `nohup` ignores SIGHUP, a shell's
    `&` SIGINT, and children inherit that."""
    old = {number: signal.signal(number, signal.SIG_DFL) for number in numbers if _is_ignored(number)}
    try:
        yield
    finally:
        for number in old:
            signal.signal(number, signal.SIG_IGN)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What clipmill keeps with its user, these tests keep for each other, and leave nothing. What else is in the user's
    cache, such as uv's packages, is seen in it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for one in users.iterdir() if users.is_dir() else ():
        if one.name != "clipmill":
            with suppress(FileExistsError):  # another process of these tests was first
                (folder / one.name).symlink_to(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pictures; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CLIPMILL_TEST_DATA") or default)
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no test pictures: {folder} is absent (CLIPMILL_TEST_DATA names another place)")
    return folder


@pytest.fixture(scope="session")
def kube_validate() -> Path:
    """The program that checks manifests offline; the test is skipped where it is absent."""
    pytest.importorskip("jsonschema")
    default = Path(__file__).resolve().parents[2] / "shared" / "tools" / "kube-validate"
    program = Path(os.environ.get("CLIPMILL_KUBE_VALIDATE") or default)
    if not program.is_file():
        pytest.skip(f"no manifest checker: {program} is absent (CLIPMILL_KUBE_VALIDATE names another place)")
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """A fresh bucket on a running server. The environment of the test points every client at it."""

    endpoint: str
    bucket: str
    client: Any  # boto3

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def storage(self) -> Storage:
        return Storage(endpoint_url=self.endpoint, region="us-east-1")

    @property
    def server(self) -> str:
        """Which one it is. Ceph's gateway does not say, but the requests it numbers end in the name of its zone."""
        if not os.environ.get("CLIPMILL_S3_ENDPOINT"):
            return "moto's S3 server"
        headers = self.client.head_bucket(Bucket=self.bucket)["ResponseMetadata"]["HTTPHeaders"]
        if re.fullmatch(r"tx[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-.+", headers.get("x-amz-request-id", "")):
            return "Ceph's RADOS gateway"
        return str(headers.get("server", "the S3 server of CLIPMILL_S3_ENDPOINT"))

    def put(self, key: str, data: bytes) -> str:
        """Store `data`; returns its URI."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"{self.uri}/{key}"

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def upload(self, folder: Path, prefix: str = "") -> None:
        """Store every file below `folder` under its relative path."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(prefix + path.relative_to(folder).as_posix(), path.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(endpoint: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"moto_server ended with status {server.returncode}"
        try:
            with urllib.request.urlopen(endpoint, timeout=2):
                return
        except urllib.error.HTTPError:
            return  # it answers, with whatever status
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"moto_server did not answer on {endpoint} within {_STARTUP_S} s")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of the server that CLIPMILL_S3_ENDPOINT names (keys from AWS_*), or of a moto_server of our own."""
    named = os.environ.get("CLIPMILL_S3_ENDPOINT")
    if named:
        yield named
        return
    endpoint = f"http://127.0.0.1:{(port := _free_port())}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(endpoint, server)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=10)


@cache
def _client(endpoint: str) -> Any:
    """Making one takes longer than most tests, so all of them share it."""
    import boto3
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)


@pytest.fixture
def s3_by_options(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """As `s3`, but the environment holds the keys alone: who drops the job file's storage options finds no store."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    return s3


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A fresh bucket, with AWS_* of this process (and its children) pointing at the server."""
    if not os.environ.get("CLIPMILL_S3_ENDPOINT"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, s3_endpoint)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    client = _client(s3_endpoint)
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    return S3(endpoint=s3_endpoint, bucket=bucket, client=client)


@pytest.fixture(scope="session")
def engine() -> WordEngine:
    return WordEngine()


@pytest.fixture(scope="session")
def plain_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """No index at all."""
    return make_table(tmp_path_factory.mktemp("plain"), TableOptions(rows=600))


@pytest.fixture(scope="session")
def indexed_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """IVF_RQ (forced, for so few rows), scalar and full-text indices."""
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    folder: Path = tmp_path_factory.mktemp("indexed")
    uri = make_table(folder, TableOptions(rows=3000))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    return uri


_SWITCHES = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
_BROWSER_FLAGS = [f"--{name}" for name in f"{_SWITCHES} disable-component-update disable-sync".split()]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, one for each module: an event loop runs in this thread for as long as it is open."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=_BROWSER_FLAGS)
        yield opened
        opened.close()
