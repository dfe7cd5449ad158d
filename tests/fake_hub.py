"""As much of the Hugging Face Hub as reading one data set, `datasets/o/n`, takes: listings, hashes, ranges."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

COMMIT = "a" * 40


class Hub:
    """`files` by their path; `status` is answered to everything where it is set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.status = 0
        self.ranges: list[str] = []

    def entry(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}

    def tree(self, folder: str, *, deep: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        folders: set[str] = set()
        for path in sorted(self.files):
            if not path.startswith(folder):
                continue
            parts = path[len(folder) :].split("/")[:-1]
            for depth in range(1, len(parts) + 1 if deep else min(len(parts), 1) + 1):
                name = folder + "/".join(parts[:depth])
                if name not in folders:
                    folders.add(name)
                    found.append({"type": "directory", "oid": "d" * 40, "size": 0, "path": name})
            if deep or not parts:
                found.append(self.entry(path))
        return found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        path = unquote(path)
        if self.hub.status:
            self._json({"error": "ill"}, self.hub.status)
        elif re.fullmatch(r"/api/datasets/o/n(/revision/[^/]+)?", path):
            self._json({"id": "o/n", "sha": COMMIT, "siblings": []})
        elif match := re.fullmatch(r"/api/datasets/o/n/tree/[^/]+(?:/(.*))?", path):
            deep = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
            found = self.hub.tree(f"{match[1]}/" if match[1] else "", deep=deep)
            self._json(found or {"error": "Not Found"}, 200 if found else 404)
        elif (match := re.fullmatch(r"/datasets/o/n/resolve/[^/]+/(.*)", path)) and match[1] in self.hub.files:
            data, status = self.hub.files[match[1]], 200
            if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                self.hub.ranges.append(span[0])
                data, status = data[int(span[1]) : int(span[2]) + 1 if span[2] else None], 206
            self._answer(status, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self._json({"error": "Not Found"}, 404)

    do_HEAD = do_GET


@contextmanager
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found = Hub(f"http://127.0.0.1:{server.server_port}")
    _Handler.hub = found
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
