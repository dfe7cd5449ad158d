#!/usr/bin/env bash
# Ray: `JobSubmissionClient("http://a")` talks to another cluster where RAY_ADDRESS is set.
#
# One would guess: an argument that is given beats the environment, which is only asked where there is none, as with other
#   clients (and as `ray.init(address=...)` of a running program reads).
# What happens: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, replaces the address that was given, without a message at the default
#   level. Everything after it, submitting and stopping included, goes there.
# Why it matters: Ray sets RAY_ADDRESS for every job that it starts, and people export it in their shell. A driver that hands
#   work to a second cluster submits to its own; a script that stops jobs "on staging" stops those of production. Take
#   both variables out of the environment around the call.
# Versions: ray 2.60.0, Python 3.11. No cluster is needed: two small servers answer as one does. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0"
cd "$work"
env -u RAY_ADDRESS -u RAY_API_SERVER_ADDRESS "$work/venv/bin/python" - <<'PY'
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from ray.job_submission import JobSubmissionClient

asked = []


class Head(BaseHTTPRequestHandler):
    """Says which version it is, as a cluster's dashboard does."""

    def do_GET(self):
        asked.append(self.server.server_port)
        body = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


servers = [ThreadingHTTPServer(("127.0.0.1", 0), Head) for _ in range(3)]
for server in servers:
    Thread(target=server.serve_forever, daemon=True).start()
names = dict(zip((server.server_port for server in servers), ("given", "of RAY_ADDRESS", "of RAY_API_SERVER_ADDRESS")))
given, by_ray, by_api = (f"http://127.0.0.1:{port}" for port in names)


def spoken_to(**environment: str) -> str:
    """Which server a client asks that was given the first one's address."""
    asked.clear()
    os.environ.update(environment)
    JobSubmissionClient(given)
    for name in environment:
        del os.environ[name]
    return ", ".join(sorted({names[port] for port in asked}))


seen = [spoken_to(), spoken_to(RAY_ADDRESS=by_ray), spoken_to(RAY_ADDRESS=by_ray, RAY_API_SERVER_ADDRESS=by_api)]
for environment, server in zip(("nothing set", "RAY_ADDRESS set", "both set"), seen):
    print(f"{environment:<16} the client asked the server {server}")
sys.exit(seen != list(names.values()))
PY
