"""An HTTP proxy before an S3 server that answers some requests with 503 SlowDown, as a store does that throttles."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.listening import listening

IN_A_ROW = 2  # refusals of one request, so that whoever asks three times gets on
SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
DENIED = (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
EXPIRED = (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
_OF_A_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class Throttle:
    """Refuses `share` of the requests, those of one method and address at most `in_a_row` times one after the other.
    `answer`: their status and body; `refused` counts them by method. Everything else goes to the server as it is:
    signatures stay valid."""

    def __init__(self, endpoint: str, share: float, seed: int = 0, *, in_a_row: int = IN_A_ROW) -> None:
        target = urlsplit(endpoint)
        self.target = (target.hostname or "127.0.0.1", target.port or 80)
        self.share, self.in_a_row = share, in_a_row
        self.answer = SLOW_DOWN
        self.refused: Counter[str] = Counter()
        self.passed = 0
        self.endpoint = ""
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._in_a_row: Counter[tuple[str, str]] = Counter()

    def refuses(self, method: str, path: str) -> bool:
        with self._lock:
            asked = (method, path)
            if self._in_a_row[asked] < self.in_a_row and self._random.random() < self.share:
                self._in_a_row[asked] += 1
                self.refused[method] += 1
                return True
            self._in_a_row.pop(asked, None)
            self.passed += 1
            return False

    @contextmanager
    def running(self) -> Iterator["Throttle"]:
        with listening(type("Handler", (_Handler,), {"throttle": self}), kind=_Server) as self.endpoint:
            yield self


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed hangs up in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    throttle: Throttle
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer's head and body leave together

    def log_message(self, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.upstream = HTTPConnection(*self.throttle.target, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.throttle.refuses(self.command, self.path):
            self._answer(*self.throttle.answer, [("Content-Type", "application/xml")])
            return
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OF_A_HOP:
                self.upstream.putheader(name, value)
        if "Content-Length" in self.headers:
            self.upstream.putheader("Content-Length", str(len(body)))
        self.upstream.endheaders(body)
        found = self.upstream.getresponse()
        data = found.read()
        size = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self._answer(found.status, data, found.getheaders(), size)

    def _answer(self, status: int, data: bytes, headers: list[tuple[str, str]], size: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_A_HOP:
                self.send_header(name, value)
        if size is not None or status != 204:
            self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on
