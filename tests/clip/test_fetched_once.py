"""Weights with an address: a machine fetches them once, however many actors it has."""

import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from clipmill.workers.clip.names import _once
print(_once(sys.argv[1], {"url": sys.argv[1]}).read_bytes() == bytes(range(256)) * 4000)
"""


class Weights(http.server.BaseHTTPRequestHandler):
    gets = 0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        type(self).gets += 1
        body = bytes(range(256)) * 4000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000])
        self.wfile.flush()
        time.sleep(1.0)  # in which the file is there by half
        self.wfile.write(body[1000:])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.mark.slow
def test_three_processes_at_once_fetch_weights_once_and_read_them_whole(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Weights) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/weights.pt"
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", CODE, url], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(3)
        ]
        said = [process.communicate(timeout=120) for process in running]
        server.shutdown()
    assert [out.strip() for out, _ in said] == [b"True"] * 3, said
    assert Weights.gets == 1
    assert sorted(p.name for p in (tmp_path / ".cache/clip").iterdir()) in (
        ["weights.pt"],
        ["weights.pt", "weights.pt.lock"],
    )
