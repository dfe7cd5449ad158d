"""Weights with an address: a machine fetches them once, however many actors it has."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PROCESSES = 3
CODE = """
import json, os, sys
from clipmill.workers.clip.library import WHOLE
from clipmill.workers.clip.names import _once

hub = WHOLE.part("pretrained")
whole, pipes = bytes(range(256)) * 4000, []
for _ in range(int(sys.argv[2])):  # forked, so that torch is imported once
    read, write = os.pipe()
    if not os.fork():
        found = _once(sys.argv[1], {"url": sys.argv[1]}, hub).read_bytes() == whole
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    pipes.append(read)
said = []
for pipe in pipes:
    with open(pipe) as answer:
        said.append(answer.read())
print(json.dumps(said))
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
        time.sleep(1.0)  # in which the file is there by half, and the others look for it
        self.wfile.write(body[1000:])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.mark.slow
def test_three_processes_at_once_fetch_weights_once_and_read_them_whole(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Weights) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/weights.pt"
        said = subprocess.run(
            [sys.executable, "-c", CODE, url, str(PROCESSES)],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=240,
            check=False,
        )
        server.shutdown()
    assert said.returncode == 0, said.stderr.decode()
    assert json.loads(said.stdout.splitlines()[-1]) == ["true"] * PROCESSES, said.stderr.decode()
    assert Weights.gets == 1
    assert sorted(p.name for p in (tmp_path / ".cache/clip").iterdir()) in (
        ["weights.pt"],
        ["weights.pt", "weights.pt.lock"],
    )
