"""What a connection may hold of the server while it says nothing: bounded in number and in time.

uvicorn waits for the header of a request, and for a client to take its answer, as long as it takes. A few hundred
connections that stay silent would be enough to shut everybody else out.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipmill.jobs.serving.settings import Settings

_LOOK_S = 1.0


class BoundedProtocol(H11Protocol):
    """One connection. `settings` is set by `server_options`."""

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits_since: float | None = self.loop.time()
        self._unsent = (0, self.loop.time())
        self._timer = self.loop.call_later(_LOOK_S, self._look)
        if len(self.connections) > self.settings.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waits_since is None and not self.answering:
            self._waits_since = self.loop.time()  # the header's clock starts with its first byte
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._waits_since = None  # uvicorn closes it where no next request begins in time
        super().on_response_complete()

    @property
    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits_since(self) -> float | None:
        """Since when the client owes the rest of a request; None where it owes nothing."""
        if self.answering and not self.cycle.more_body:
            return None
        return self._waits_since if self._waits_since is not None else self.loop.time()

    def _make_room(self) -> None:
        """Whoever has kept us waiting longest goes, so that a silent crowd shuts nobody out."""
        waiting = {one: one.waits_since for one in self.connections if isinstance(one, BoundedProtocol)}
        silent = [(since, id(one), one) for one, since in waiting.items() if since is not None]
        (min(silent)[2] if silent else self).transport.abort()

    def _look(self) -> None:
        now = self.loop.time()
        size = self.transport.get_write_buffer_size()
        if size == 0 or size != self._unsent[0]:
            self._unsent = (size, now)
        late = (
            not self.answering
            and self._waits_since is not None
            and self.conn.their_state is h11.IDLE
            and now - self._waits_since > self.settings.header_s
        )
        if late or now - self._unsent[1] > self.settings.body_s:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(_LOOK_S, self._look)


def server_options(settings: Settings) -> dict[str, Any]:
    """For uvicorn's Config: how connections are bounded, and that a stop does not wait for those that never end."""
    return {
        "http": type("Bounded", (BoundedProtocol,), {"settings": settings}),
        "ws": "none",
        "access_log": False,  # addresses hold what people search for
        "timeout_keep_alive": 15,
        "timeout_graceful_shutdown": 10,
        "h11_max_incomplete_event_size": 65_536,
        "server_header": False,
    }
