"""What every request passes before it reaches the API: host, token, body size; and what every answer carries.

Plain ASGI, because a body must be counted while it streams in, and refused before it is held.
"""

import asyncio
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any, Literal
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from clipmill.jobs.serving.settings import LOCAL_HOSTS, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "clipmill_token"
UPLOADS = ("/api/encode",)
_LET_PASS_S = 5.0  # time for some hundred megabytes beside us, some megabytes from far away
OPEN = ("/health",)  # without a token: probes have none
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Metrics:
    """Counts for Prometheus, in a registry of their own so that several apps fit into one process. Of several
    processes those of all are added up; of a table's rows and version they give the largest."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("clipmill_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "clipmill_request_seconds",
            "Time to answer",
            ["route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.running = self._gauge("clipmill_requests_running", "Requests being answered", "livesum")
        self.rows = self._gauge("clipmill_table_rows", "Rows of the served version", "livemax")
        self.version = self._gauge("clipmill_table_version", "Served version", "livemax")

    def _gauge(self, name: str, what: str, together: Literal["livesum", "livemax"]) -> Gauge:
        return Gauge(name, what, registry=self.registry, multiprocess_mode=together)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class Guard:
    def __init__(self, app: App, *, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the headers of a GET; the body is left out by uvicorn, which sees its own scope
            scope = {**scope, "method": "GET"}
        start, status = time.perf_counter(), [500]
        sender = _with_headers(send, status)
        self.metrics.running.inc()
        try:
            if (refusal := self._refusal(scope)) is not None:
                await _answer(sender, *refusal, rest=receive if refusal[0] == 413 else None)
            else:
                await self._pass_on(scope, receive, sender)
        finally:
            self.metrics.running.dec()
            # The route's template, never the path: a label per path would grow without bound.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status[0])).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> tuple[int, str, str, list[tuple[bytes, bytes]]] | None:
        headers = dict(scope["headers"])
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if self.settings.token is None and host not in LOCAL_HOSTS:
            # A page elsewhere may point its own name at this machine (DNS rebinding) and read what a browser here sees.
            return 421, f"this server answers on localhost, not as {host!r}", "open it as http://localhost", []
        if self.settings.token is not None and scope["path"] not in OPEN and not self._has_token(scope, headers):
            challenge = [(b"www-authenticate", b"Bearer")]
            return 401, "a token is needed", "send Authorization: Bearer TOKEN, or open /?token=TOKEN once", challenge
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit(scope):
            return 413, f"the body has {int(length)} bytes, the limit is {self._limit(scope)}", "send less", []
        return None

    def _has_token(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        assert self.settings.token is not None
        given = []
        scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            given.append(value.strip())
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            cookies = SimpleCookie()
        if COOKIE in cookies:
            given.append(cookies[COOKIE].value)
        if scope["path"] == "/":  # the page only: a token in the address of an API call would end up in logs
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return any(hmac.compare_digest(g.encode(), self.settings.token.encode()) for g in given)

    def _limit(self, scope: Scope) -> int:
        # A multipart body is the picture and some kilobytes around it.
        return self.settings.max_image_bytes + 10_000 if scope["path"] in UPLOADS else self.settings.max_body_bytes

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit, until = self._limit(scope), time.monotonic() + self.settings.body_s
        seen, started, whole, late = 0, False, False, False

        async def counted() -> Message:
            nonlocal seen, whole, late
            try:
                # Not wait_for, which makes a task of every call; this costs nothing where the body is there already.
                async with asyncio.timeout(None if whole else max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                late = True
                return {"type": "http.disconnect"}
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            # To the app it is as if the client had gone, whatever it makes of that is not sent.
            return message if seen <= limit else {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal started
            if started or (seen <= limit and not late):
                started = True
                await send(message)

        await self.app(scope, counted, sent)
        if not started and seen > limit:
            error = f"the body has more than {limit} bytes"
            await _answer(send, 413, error, "send less", [], rest=None if whole else receive)
        elif not started and late:
            await _answer(send, 408, f"the body did not come within {self.settings.body_s:g} s", "send it again", [])


def _with_headers(send: Send, status: list[int]) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            status[0] = message["status"]
            present = {name.lower() for name, _ in message.get("headers", [])}
            message["headers"] = [*message.get("headers", []), *(h for h in HEADERS if h[0] not in present)]
        await send(message)

    return sender


async def _answer(
    send: Send,
    status: int,
    error: str,
    hint: str,
    headers: list[tuple[bytes, bytes]],
    rest: Receive | None = None,
) -> None:
    """`rest`: of the request, where some of it may still come."""
    body = json.dumps({"error": error, "hint": hint}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    if status in (408, 413):
        start.append((b"connection", b"close"))  # no other request is read from it
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": rest is not None})
    if rest is not None:
        await _let_pass(rest)
        await send({"type": "http.response.body", "body": b""})


async def _let_pass(rest: Receive) -> None:
    """What a client is still sending: closed before that, its system throws our answer away with the connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LET_PASS_S):
            while (await rest()).get("more_body", False):
                pass


def _host_name(host: str) -> str:
    """`localhost:8000` -> localhost, `[::1]:8000` -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
