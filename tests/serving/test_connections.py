"""Clients that say nothing, little, or never listen: each is let go, and the others are answered."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import lance
import pytest

from clipmill.jobs.querying.at_hand import warm
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.serving.settings import Settings
from tests.served import running
from tests.tables import TableOptions, WordEngine, append, make_table

LIMITS = Settings(connections=8, header_s=1.0, body_s=1.5, refresh_s=0.2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    uri = make_table(tmp_path_factory.mktemp("connections"), TableOptions(rows=1200))
    with running(open_table(uri, engine=WordEngine()), LIMITS) as url:
        yield url
        assert httpx.get(f"{url}/health").json()["status"] == "ok"


def opened(base: str, first: bytes = b"") -> socket.socket:
    connection = socket.create_connection((urlsplit(base).hostname, urlsplit(base).port), timeout=60)
    connection.sendall(first)
    return connection


def seconds_until_closed(connection: socket.socket) -> float:
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65_536):
            pass
    return time.monotonic() - start


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_header_that_does_not_come_is_not_waited_for(base: str, said: bytes) -> None:
    with opened(base, said) as silent:
        assert 0.5 < seconds_until_closed(silent) < 20


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(base: str) -> None:
    with opened(base, b"GET /health HTTP/1.1\r\n") as slow:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - start < 30:
                slow.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - start < 20


def test_a_body_that_does_not_come_is_told_so(base: str) -> None:
    head = (
        b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n"
    )
    with opened(base, head + b'{"k"') as slow:
        answer = slow.recv(65_536)
        assert b" 408 " in answer.splitlines()[0]
        assert b"did not come within" in answer + slow.recv(65_536)
        assert seconds_until_closed(slow) < 20


def test_an_answer_that_nobody_takes_is_thrown_away(base: str) -> None:
    size = len(httpx.get(f"{base}/openapi.json").content)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((urlsplit(base).hostname, urlsplit(base).port))
        wanted = 20_000_000 // size  # more than the system holds on the way
        with contextlib.suppress(ConnectionError, TimeoutError):
            deaf.settimeout(0.5)
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * wanted)
        time.sleep(4)
        deaf.settimeout(10)
        assert seconds_until_closed(deaf) < 3


def test_a_silent_crowd_shuts_nobody_out(base: str) -> None:
    """The connections that have kept the server waiting longest make room, so the limit is on those that are silent."""
    with contextlib.ExitStack() as crowd:
        silent = [crowd.enter_context(opened(base, b"GET /")) for _ in range(30)]
        for _ in range(5):
            assert httpx.get(f"{base}/health", timeout=30).status_code == 200
        silent[0].settimeout(0.5)
        assert seconds_until_closed(silent[0]) < 0.5, "the oldest went first"


def test_a_connection_that_is_kept_alive_answers_again_after_a_pause(base: str) -> None:
    with httpx.Client(base_url=base) as client:
        for _ in range(2):
            assert client.get("/health").status_code == 200
            time.sleep(LIMITS.header_s + 1.2)
        assert client.get("/health").status_code == 200


def test_a_table_that_is_dropped_or_made_again_is_noticed(tmp_path: Path) -> None:
    """Its version counts from 1 again, so the number alone says nothing."""
    uri = make_table(tmp_path, TableOptions(rows=60))
    with running(open_table(uri, engine=WordEngine()), LIMITS) as base, httpx.Client(base_url=base) as client:

        def until(status: str, rows: int) -> httpx.Response:
            deadline = time.monotonic() + 60
            while True:
                found = client.get("/health")
                if (found.json()["status"], found.json()["rows"]) == (status, rows):
                    return found
                assert time.monotonic() < deadline, found.text
                time.sleep(0.05)

        assert until("ok", 60).status_code == 200
        lance.LanceDataset.drop(f"{uri}.lance")
        gone = until("gone", 60)
        assert gone.status_code == 503
        assert "no such table" in gone.json()["detail"]
        answer = client.post("/api/search", json={"where": "views >= 0"})
        assert answer.status_code == 503
        assert "hint" in answer.json()
        make_table(tmp_path, TableOptions(rows=20, seed=7))
        assert until("ok", 20).json()["version"] == 1
        assert client.post("/api/search", json={"text": "red shoe"}).json()["matching"] == 20
        append(uri, TableOptions(rows=10, start=20))
        until("ok", 30)


def test_a_table_that_cannot_be_read_as_the_server_starts_is_at_hand_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    real = warm.load

    def load(*arguments: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("Not found: data/of-a-version-that-is-gone.lance")
        return real(*arguments)

    monkeypatch.setattr(warm, "load", load)
    table = open_table(make_table(tmp_path, TableOptions(rows=60)), engine=WordEngine())
    with running(table, LIMITS) as base:
        deadline = time.monotonic() + 60
        while not table.snapshot.warm:
            assert httpx.get(f"{base}/health").json()["status"] == "ok"
            assert time.monotonic() < deadline, tries
            time.sleep(0.05)


def test_a_pinned_version_is_looked_after_too(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=60))
    table = open_table(uri, version=1)
    append(uri, TableOptions(rows=40, start=60))
    assert not table.refresh()
    lance.LanceDataset.drop(f"{uri}.lance")
    make_table(tmp_path, TableOptions(rows=20, seed=7))
    assert table.refresh()
    assert table.num_rows == 20
