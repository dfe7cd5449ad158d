"""A real server on a real port, in a thread of the test process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from clipmill.jobs.querying.open import Table
from clipmill.jobs.serving.app import create_app
from clipmill.jobs.serving.connections import server_options
from clipmill.jobs.serving.settings import Settings


@contextlib.contextmanager
def running(table: Table, settings: Settings | None = None) -> Iterator[str]:
    """Serve `table`; yields the base URL. The encoder is ready when this returns."""
    settings = settings or Settings(refresh_s=0.2)
    app = create_app(table, settings)
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # or answers wait for acknowledgements
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", **server_options(settings)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started or app.state.services.encoder[0] == "loading":
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
