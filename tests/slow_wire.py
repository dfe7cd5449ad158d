"""A TCP proxy that answers late, for tests of what latency and thin connections cost."""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_CHUNK_BYTES = 65_536
_Arrived = tuple[float, bytes]


class SlowWire:
    """Between clients and one server: every answer arrives `latency_s` late, each connection brings at most
    `bytes_per_s`. Both may be changed at any time."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname or "127.0.0.1", target.port or 80)
        self.latency_s = 0.0
        self.bytes_per_s = float("inf")
        self.endpoint = ""

    @contextmanager
    def running(self) -> Iterator["SlowWire"]:
        with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
            self.endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()
            yield self

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return  # closed: the test is over
            there = socket.create_connection(self._target)
            for one in (client, there):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            late: queue.Queue[_Arrived] = queue.Queue()
            for work, args in (
                (self._forward, (client, there)),
                (self._receive, (there, late)),
                (self._deliver, (late, client)),
            ):
                threading.Thread(target=work, args=args, daemon=True).start()

    @staticmethod
    def _forward(client: socket.socket, there: socket.socket) -> None:
        try:
            while data := client.recv(_CHUNK_BYTES):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side is gone, and the threads that read from it end too

    @staticmethod
    def _receive(there: socket.socket, late: "queue.Queue[_Arrived]") -> None:
        with there:
            try:
                while data := there.recv(_CHUNK_BYTES):
                    late.put((time.monotonic(), data))
            except OSError:
                pass
        late.put((time.monotonic(), b""))

    def _deliver(self, late: "queue.Queue[_Arrived]", client: socket.socket) -> None:
        free_at = 0.0
        with client:
            while True:
                arrived, data = late.get()
                if not data:
                    return
                free_at = max(free_at, arrived + self.latency_s) + len(data) / self.bytes_per_s
                time.sleep(max(0.0, free_at - time.monotonic()))
                try:
                    client.sendall(data)
                except OSError:
                    return
