"""The memory of `clipmill serve`, and what it consists of: at the start, after 100 requests, after 2,000 of all kinds.

    python -m benchmarks.serving_memory TABLE [--requests 2000] [--before CHECKOUT] [--out DIR]

TABLE is one of `benchmarks.query` or of the same columns. Words, a picture and hybrid search are asked where the
server's model loads. Anonymous memory is what cannot be dropped; of `files` the vectors at hand can, and libraries.
"""

import argparse
import io
import json
import re
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.query_cases import CASES, WORDS, query_vectors
from benchmarks.serving import HERE, Server, encoded, running

FIRST = 100
COLUMNS = ["id", "caption", "tags"]
_NAMED = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--before", type=Path, help="another checkout of clipmill")
    parser.add_argument("--out", type=Path, help="folder for the dated JSON")
    options = parser.parse_args()
    results = {"clipmill": measure(options.table, HERE, options.requests)}
    if options.before:
        results["clipmill before"] = measure(options.table, options.before, options.requests)
    print(as_markdown(results))
    if options.out:
        rows, dim = _size(options.table)
        report = {"machine": machine.machine(("pylance", "fastapi")), "rows": rows, "dim": dim}
        machine.save(machine.dated(options.out, f"serving-memory-{rows}"), report | {"results": results})


def measure(table: str, checkout: Path, requests: int) -> dict[str, Any]:
    """Megabytes by part of the memory, at each of the three times."""
    command = [sys.executable, "-m", "clipmill", "serve", table, "--port", "{port}"]
    server = Server(name="clipmill", command=command, cwd=checkout)
    found: dict[str, Any] = {}
    with running(server):
        base = f"http://127.0.0.1:{server.port}"
        encoder = _ask(base, "/health", None)["encoder"]
        kinds = list(_kinds(base, _size(table)[1], words=encoder == "ready"))
        found["start"] = memory_mb(server.process.pid)
        refused: Counter[str] = Counter()
        for n in range(requests):
            if n == FIRST:
                found[f"{FIRST} requests"] = memory_mb(server.process.pid)
            name, ask = kinds[n % len(kinds)]
            try:
                ask(n)
            except urllib.error.HTTPError as error:
                refused[f"{name}: {error.code}"] += 1
        found[f"{requests} requests"] = memory_mb(server.process.pid)
    return found | {"kinds": [name for name, _ in kinds], "encoder": encoder, "refused": dict(refused)}


def _kinds(base: str, dim: int, *, words: bool) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Each kind of request by its name; the n-th of it."""
    vectors_QD = query_vectors(500, dim, "clustered")

    def search(n: int, filters: dict[str, Any]) -> Any:
        if filters.pop("hybrid", False):
            asked = {"text": WORDS[n % len(WORDS)], "hybrid": True}
        else:
            asked = {"vector": encoded(vectors_QD[n % 500])}
        return _ask(base, "/api/search", {"k": 10, "columns": COLUMNS, **asked, **filters})

    def of(case: Callable[[int], dict[str, Any]]) -> Callable[[int], Any]:
        return lambda n: search(n, case(n))

    for name, case in CASES.items():
        if words or not case(0).get("hybrid"):
            yield name, of(case)
    yield "facets of 5 %", lambda n: _ask(base, "/api/facets", CASES["5 %"](n))
    yield "like a row", lambda n: _ask(base, f"/api/similar?id={n:09d}", None)
    yield "a row", lambda n: _ask(base, f"/api/item?id={n:09d}", None)
    if not words:
        return
    yield "words", lambda n: _ask(base, "/api/search", {"text": f"a red thing{n % 100:03d} in scene {n}", "k": 10})
    picture = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (300, 200), "red").save(picture, "JPEG")
    yield "a picture", lambda n: _ask(base, "/api/encode", picture.getvalue())


def _ask(base: str, path: str, body: Any) -> Any:
    """`body`: of JSON, bytes of a picture, or None."""
    kind, data = "application/json", None if body is None else body
    if isinstance(body, bytes):
        kind = "multipart/form-data; boundary=x"
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        data = head + body + b"\r\n--x--\r\n"
    elif body is not None:
        data = json.dumps(body).encode()
    headers = {"content-type": kind}
    with urllib.request.urlopen(urllib.request.Request(base + path, data, headers), timeout=120) as answer:
        return json.load(answer)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident in all, of it shared out among processes (PSS) and anonymous; and the largest parts by what they are
    of."""
    kilobytes: Counter[str] = Counter()
    total: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if named := _NAMED.match(line):
            file = named[1].removesuffix(" (deleted)")
            name = (
                "vectors at hand"
                if "clipmill-vectors" in file or "/#" in file
                else "libraries"
                if file[:1] == "/"
                else "anonymous"
            )
            continue
        key, _, value = line.partition(":")
        if key in ("Rss", "Pss", "Anonymous"):
            total[key] += int(value.split()[0])
        if key == "Rss":
            kilobytes[name] += int(value.split()[0])
    in_mb = {key: round(value * 1.024e-3, 1) for key, value in (total | kilobytes).items()}
    return {"rss": in_mb.pop("Rss"), "pss": in_mb.pop("Pss"), "anonymous": in_mb.pop("Anonymous")} | in_mb


def _size(table: str) -> tuple[int, int]:
    import lance

    dataset = lance.dataset(f"{table}.lance")
    return dataset.count_rows(), dataset.schema.field("vector").type.list_size


def as_markdown(results: dict[str, Any]) -> str:
    lines = ["| server | when | RSS | PSS | anonymous | vectors at hand | libraries |", "|---|---|---|---|---|---|---|"]
    for name, one in results.items():
        for when, found in one.items():
            if isinstance(found, dict) and "rss" in found:
                parts = [found.get(key, 0) for key in ("rss", "pss", "anonymous", "vectors at hand", "libraries")]
                lines.append(f"| {name} | {when} | " + " | ".join(f"{part:,.0f}" for part in parts) + " |")
        lines.append(f"{name}: encoder {one['encoder']}; refused {one['refused']}; asked {', '.join(one['kinds'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
