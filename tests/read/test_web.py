"""Pictures of web servers: what is gone is rejected, what may be back tomorrow fails the unit and comes again."""

import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.workers.read import read_unit
from clipmill.workers.store import errors as store_errors
from clipmill.workers.store import web as store_web
from clipmill.workers.store.storage import StoreUnavailable
from tests.listening import listening
from tests.read.help import reasons


class _Handler(BaseHTTPRequestHandler):
    """The first part of the path is the answer, such as `/404` or `/cut`; anything else is a picture."""

    asked: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        word = self.path.strip("/").partition("/")[0]
        if word.isdecimal():
            self._answer(int(word), b"" if word == "204" else b"<html>no</html>")
        elif word == "busy" and self.asked.count(self.path) < 3:
            self._answer(503, b"")
        elif word == "round":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif word == "cut":
            self._answer(200, b"half", length=100)
            self.close_connection = True
        elif word == "silent":
            time.sleep(1.0)
            self.close_connection = True
        elif word == "large":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n")
        else:
            self._answer(200, self.path.encode())

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    _Handler.asked = []
    with listening(_Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.001)
    monkeypatch.setattr(store_errors, "_FIRST_WAIT_S", 0.001)


def read_links(folder: Path, links: list[str], region: str = "", **limits: Any) -> list[Any]:
    """`region` makes another client, where one with other options is needed."""
    (folder / "m.txt").write_text("".join(link + "\n" for link in links))
    source = Source(format="manifest", uri=f"{folder}/m.txt")
    storage, bounds = Storage(region=region or None), Limits(**limits)
    return [s for u in survey(source, storage, bounds) for s in read_unit(u, source, storage, bounds)]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_what_is_gone_or_refused_is_a_reject_and_one_request(web: str, tmp_path: Path) -> None:
    found = read_links(tmp_path, [f"{web}/{name}" for name in ("a.jpg", "404/b.jpg", "410", "403", "401", "busy")])
    kinds = [item.reason.value if isinstance(item, Reject) else item.image for item in found]
    assert kinds == [b"/a.jpg", "not_found", "not_found", "forbidden", "forbidden", b"/busy"]
    assert sorted(_Handler.asked) == sorted(["/a.jpg", "/404/b.jpg", "/410", "/403", "/401", *["/busy"] * 3])


@pytest.mark.parametrize("name", ["500", "501", "503", "429", "408", "204", "cut", "round"])
def test_what_may_be_back_tomorrow_is_no_reject(web: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreUnavailable, match=f"{web}/{name}"):
        read_links(tmp_path, [f"{web}/a.jpg", f"{web}/{name}"])


def test_nobody_there_is_no_reject(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        read_links(tmp_path, [f"http://127.0.0.1:{free_port()}/a.jpg"])


def test_a_host_that_says_nothing_is_not_waited_for_long(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_web, "READ_TIMEOUT_S", 0.2)
    with pytest.raises(StoreUnavailable):
        read_links(tmp_path, [f"{web}/silent"], region="short")
    assert len(_Handler.asked) == 3


def test_a_body_without_a_length_is_bounded(web: str, tmp_path: Path) -> None:
    found = read_links(tmp_path, [f"{web}/large", f"{web}/a.jpg"], max_image_bytes=1000)
    assert reasons(found) == {"too_many_bytes": 1, "ok": 1}
