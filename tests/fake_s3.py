"""A small S3 server over HTTP that misbehaves on demand, for what moto and Ceph do too well."""

import bisect
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.listening import listening

_PAGE_KEYS = 1000


class FakeS3:
    """One bucket, `b`. `before` runs ahead of every request and may return (status, S3 error code) to send instead;
    `after` does the same once a PUT was carried out, so that it is done and nobody is told; status 0 hangs up."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """An empty bucket and good behaviour again."""
        self.objects: dict[str, bytes] = {}
        self.listing: Sequence[str] | None = None  # keys to list, sorted, without objects behind them
        self.ignores_conditions = False
        self.ignores_ranges = False
        self.before: Callable[[str, str], tuple[int, str] | None] = lambda method, key: None
        self.after: Callable[[str], tuple[int, str] | None] = lambda key: None
        self.requests: list[tuple[str, str]] = []
        self.sent_bytes = 0  # of bodies
        self.said: Counter[str] = Counter()  # how often requests were signed, offered to pay, and to which host

    @contextmanager
    def running(self) -> Iterator["FakeS3"]:
        with listening(type("Handler", (_Handler,), {"store": self})) as self.endpoint:
            yield self


class _Handler(BaseHTTPRequestHandler):
    store: FakeS3
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.store.sent_bytes += len(body)
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _begin(self) -> str | None:
        self.key = unquote(urlsplit(self.path).path).removeprefix("/b").lstrip("/")
        self.store.requests.append((self.command, self.key))
        self.store.said.update(name for name in ("authorization", "x-amz-request-payer") if name in self.headers)
        self.store.said[str(self.headers["Host"]).partition(":")[0]] += 1
        refused = self.store.before(self.command, self.key)
        if refused is not None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._error(*refused)
            return None
        return self.key

    def do_GET(self) -> None:
        key = self._begin()
        if key is None:
            return
        if not key:
            self._list()
            return
        data = self.store.objects.get(key)
        if data is None:
            self._error(404, "NoSuchKey")
            return
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-Match") not in (None, etag):
            self._error(412, "PreconditionFailed")
            return
        span = self.headers.get("Range")
        if not span or self.store.ignores_ranges:
            self._answer(200, data, ETag=etag)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        if not part:
            self._error(416, "InvalidRange")
            return
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        self._answer(206, part, ETag=etag, Content_Range=where)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        key = self._begin()
        if key is None:
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.store.lock:
            if key in self.store.objects and self.headers.get("If-None-Match") and not self.store.ignores_conditions:
                self._error(412, "PreconditionFailed")
                return
            self.store.objects[key] = data
        if (lost := self.store.after(key)) is not None:
            if lost[0]:
                self._error(*lost)
            else:
                self.close_connection = True  # and not a word
            return
        self._answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')

    def do_DELETE(self) -> None:
        key = self._begin()
        if key is not None:
            self.store.objects.pop(key, None)
            self._answer(204)

    def _list(self) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}
        keys = self.store.listing if self.store.listing is not None else sorted(self.store.objects)
        after = query.get("continuation-token") or query.get("start-after") or ""
        prefix = query.get("prefix", "")
        first = max(bisect.bisect_right(keys, after), bisect.bisect_left(keys, prefix))
        found = list(itertools.takewhile(lambda key: key.startswith(prefix), keys[first : first + _PAGE_KEYS + 1]))
        page, more = found[:_PAGE_KEYS], len(found) > _PAGE_KEYS
        items = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{len(self.store.objects.get(k, b'x'))}</Size>"
            f'<ETag>"{hashlib.md5(self.store.objects.get(k, k.encode())).hexdigest()}"</ETag>'
            "<LastModified>2026-11-01T00:00:00.000Z</LastModified></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        self._answer(200, text.encode())
