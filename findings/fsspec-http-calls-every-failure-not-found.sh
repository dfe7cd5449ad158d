#!/usr/bin/env bash
# fsspec: over HTTP, a server that is ill or not there at all is "file not found".
#
# One would guess: `info`, `open` and `exists` tell a file that is gone (404) from a server that is busy (503, 429), that
#   refuses (403) or that nobody listens at.
# What happens: `info` and `open` raise FileNotFoundError for all of them (the real error is only its `__cause__`), `exists`
#   says False. `cat` of the same address raises what it was.
# Why it matters: a crawler or a data loader that leaves out what is "not found" loses files for good because a host had a bad
#   minute. Look at the error's cause, or ask with a client that shows the status.
# Versions: fsspec 2026.9.0, aiohttp 3.14.5, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec


class Answers(BaseHTTPRequestHandler):
    """Answers the status that the path names."""

    def do_GET(self):
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def said(call) -> str:
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__


server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
Thread(target=server.serve_forever, daemon=True).start()
files = fsspec.filesystem("http")
base = f"http://127.0.0.1:{server.server_port}"
addresses = {status: f"{base}/{status}" for status in ("404", "403", "429", "503")} | {"nobody": "http://127.0.0.1:9/x"}
seen = {}
for name, url in addresses.items():
    seen[name] = tuple(said(lambda call=call: call(url)) for call in (files.info, files.open, files.exists, files.cat))
    print("{:<7} info {}, open {}, exists {}, cat {}".format(name, *seen[name]))
same = {what[:3] for what in seen.values()} == {("FileNotFoundError", "FileNotFoundError", "False")}
differ = [name for name, what in seen.items() if what[3] == "FileNotFoundError"] == ["404"]
sys.exit(not (same and differ))
PY
