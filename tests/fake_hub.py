"""As much of the Hugging Face Hub as reading and writing one data set, `datasets/o/n`, takes: listings, hashes, ranges;
who one is, making the repository, uploads by LFS, and commits that land whole or not at all."""

import base64
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
    """`files` by their path; `status` is answered to everything where it is set. To write one needs `token`; `role` is
    what it may. `stored` are bytes that were uploaded, committed or not; `fail_uploads`: that many more are refused."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.status = 0
        self.ranges: list[str] = []
        self.exists, self.private, self.head = True, False, COMMIT
        self.branches = {"main"}
        self.token, self.role = "hf_write", "write"
        self.stored: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.fail_uploads = 0

    def commit(self, branch: str, lines: list[dict[str, Any]]) -> bool:
        """One commit, or False where its parent is not the head."""
        header = lines[0]["value"]
        if header.get("parentCommit", self.head) != self.head:
            return False
        files = dict(self.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.files = files
        self.head = hashlib.sha1(f"{self.head}{sorted(files)}".encode()).hexdigest()
        self.commits.append({**header, "branch": branch, "lines": lines[1:]})
        return True

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
        elif path == "/api/whoami-v2":
            if self._may_write():
                token = {"role": self.hub.role}
                self._json({"name": "o", "orgs": [{"name": "team"}], "auth": {"accessToken": token}})
        elif not self.hub.exists:
            self._answer(404, b"{}", X_Error_Code="RepoNotFound")
        elif (match := re.fullmatch(r"/api/datasets/o/n/(?:revision|tree)/([^/]+)", path)) and (
            match[1] in ("gone", "v2") and match[1] not in self.hub.branches
        ):
            self._answer(404, b"{}", X_Error_Code="RevisionNotFound")
        elif re.fullmatch(r"/api/datasets/o/n(/revision/[^/]+)?", path):
            self._json({"id": "o/n", "sha": self.hub.head, "private": self.hub.private, "siblings": []})
        elif match := re.fullmatch(r"/api/datasets/o/n/tree/[^/]+(?:/(.*))?", path):
            deep = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
            found = self.hub.tree(f"{match[1]}/" if match[1] else "", deep=deep)
            there = bool(found) or not match[1]
            self._json(found if there else {"error": "Not Found"}, 200 if there else 404)
        elif (match := re.fullmatch(r"/datasets/o/n/resolve/[^/]+/(.*)", path)) and match[1] in self.hub.files:
            data, status = self.hub.files[match[1]], 200
            if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                self.hub.ranges.append(span[0])
                data, status = data[int(span[1]) : int(span[2]) + 1 if span[2] else None], 206
            self._answer(status, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self._json({"error": "Not Found"}, 404)

    do_HEAD = do_GET

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self._json({"error": "Invalid username or password."}, 401)
        return False

    def do_PUT(self) -> None:
        """Uploads go to a store of their own, by an address that is a token itself."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.fail_uploads:
            self.hub.fail_uploads -= 1
            self._json({"error": "ill"}, 403)
        else:
            self.hub.stored[self.path.rpartition("/")[2]] = data
            self._answer(200, b"")

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        if self.hub.status:
            self._json({"error": "ill"}, self.hub.status)
        elif self._may_write():
            self._post(path, data)

    def _post(self, path: str, data: bytes) -> None:
        hub = self.hub
        if path == "/api/validate-yaml":
            is_odd = b"license: no-such" in data
            said = {"errors": [{"message": '"license" must be one of ...'}] if is_odd else [], "warnings": []}
            self._json(said, 400 if is_odd else 200)
        elif path == "/api/repos/create":
            hub.exists, hub.private = True, json.loads(data).get("visibility") == "private"
            hub.files, hub.head = {".gitattributes": b"*.parquet filter=lfs\n"}, "b" * 40
            self._json({"url": f"{hub.url}/datasets/o/n"})
        elif path.startswith("/api/datasets/o/n/branch/"):
            hub.branches.add(path.rpartition("/")[2])
            self._json({})
        elif path.startswith("/api/datasets/o/n/preupload/"):
            self._json({"files": [self._mode(one) for one in json.loads(data)["files"]]})
        elif path == "/datasets/o/n.git/info/lfs/objects/batch":
            self._json({"objects": [self._lfs(one) for one in json.loads(data)["objects"]], "transfer": "basic"})
        elif path.startswith("/api/datasets/o/n/commit/"):
            lines = [json.loads(line) for line in data.splitlines()]
            if hub.commit(path.rpartition("/")[2], lines):
                self._json({"commitUrl": f"{hub.url}/datasets/o/n/commit/{hub.head}", "commitOid": hub.head})
            else:
                self._json({"error": "A commit has happened since. Please refresh and try again."}, 412)
        else:
            self._json({"error": "Not Found"}, 404)

    def _mode(self, one: dict[str, Any]) -> dict[str, Any]:
        """How a file is to be sent, and the hash of what is there under its name."""
        is_text = one["path"].endswith((".md", ".json"))
        there = self.hub.files.get(one["path"])
        oid = None
        if there is not None:
            git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = git if is_text else hashlib.sha256(there).hexdigest()
        return {
            "path": one["path"],
            "uploadMode": "regular" if is_text else "lfs",
            "shouldIgnore": False,
            "oid": oid,
        }

    def _lfs(self, one: dict[str, Any]) -> dict[str, Any]:
        """Where to send an object; nowhere where it is stored already."""
        known = one["oid"] in self.hub.stored
        place = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}}
        return {"oid": one["oid"], "size": one["size"], **({} if known else place)}


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
