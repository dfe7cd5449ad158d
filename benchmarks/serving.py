"""Many clients at once: requests per second and p99 of `clipmill serve` beside others over the same rows.

    python -m benchmarks.serving [--rows 200000] [--folder DIR] [--clients 32] [--rounds 5] [--seconds 8] [--out DIR]
        [--clip-retrieval PYTHON]   the Python of an environment with clip-retrieval (pip install clip-retrieval)
        [--processes N]             `clipmill serve` of so many processes too
        [--before CHECKOUT]         `clipmill serve` of another checkout too, installed into its own .venv
    python -m benchmarks.serving --words   the same with words, over a table of clipmill-tiny's

The servers run all the time and are asked in turn, so that what else the machine does meets all of them alike. CPU
milliseconds per request are those of the server's processes, and do not depend on it. Tables are those of
`benchmarks.query`, made and indexed where they are missing; recall@10 is against exact cosines.
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from benchmarks.process import cpu_s, memory_mb
from benchmarks.query_cases import query_vectors
from benchmarks.query_data import KINDS, write

K, QUESTIONS, TEXTS = 10, 256, 16_384
HERE = Path(__file__).resolve().parents[1]


@dataclass(slots=True, kw_only=True)
class Server:
    """One server under test. `body` makes the JSON of a question; `ids` takes an answer apart."""

    name: str
    command: list[str]
    path: str = "/api/search"
    clip_retrieval: bool = False
    cwd: Path = HERE
    port: int = 0
    process: Any = None
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def ids(self, answer: Any) -> list[str]:
        if self.clip_retrieval:
            return [f"{row['id']:09d}" for row in answer]  # its id is the row's number, as ours is
        return [row["id"] for row in answer["hits"]]

    def body(self, question: Any) -> str:
        """Of words, a vector (D,), or what `/api/search` takes, its `vector` as numbers."""
        if isinstance(question, str):
            question = {"text": question}
        if self.clip_retrieval:
            asked = {"embedding_input": question.tolist(), "modality": "image", "num_images": K, "indice_name": "table"}
            return json.dumps(asked | {"deduplicate": False})
        asked = {"k": K, "columns": ["id", "caption", "tags"]}
        asked |= question if isinstance(question, dict) else {"vector": question}
        if "vector" in asked:
            asked["vector"] = encoded(asked["vector"])
        return json.dumps(asked)


def encoded(vector_D: npt.NDArray[np.float32]) -> str:
    """As the API takes it."""
    return base64.urlsafe_b64encode(vector_D.astype("<f2").tobytes()).decode().rstrip("=")


def main() -> None:
    options = _arguments()
    uri, questions = (_words if options.words else _vectors)(options)
    servers = _servers(options, uri)
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(running(server))
            ask(server, questions[: options.clients], options.clients, 3.0)  # warm
        everything = range(len(questions))
        for turn in range(options.rounds):
            # Words that nobody asked yet: those that were are remembered, by `clipmill serve`.
            numbers = range(turn + options.clients, len(questions), options.rounds) if options.words else everything
            for server in servers if turn % 2 == 0 else servers[::-1]:
                found = ask(server, [questions[n] for n in numbers], options.clients, options.seconds)
                found["answers"] = {numbers[int(n)]: answer for n, answer in found["answers"].items()}
                server.rounds.append(found)
                print(turn, server.name, {k: v for k, v in found.items() if k != "answers"}, file=sys.stderr)
        memory = {server.name: memory_mb(server.process.pid) for server in servers}
    results = _results(servers, memory, exactly_nearest(uri, questions))
    print(as_markdown(results))
    if options.out:
        report = {
            "machine": machine.machine(("pylance", "lancedb", "fastapi", "uvicorn")),
            "rows": options.rows,
            "kind": options.kind,
            "clients": options.clients,
            "seconds": options.seconds,
            "asked": "words" if options.words else "vectors",
        }
        name = f"serving-{'words' if options.words else options.kind}-{options.rows}"
        machine.save(machine.dated(options.out, name), report | {"results": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "clipmill-bench")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--words", action="store_true", help="ask with words, of clipmill-tiny")
    parser.add_argument("--clip-retrieval", type=Path, help="Python of an environment with clip-retrieval")
    parser.add_argument("--before", type=Path, help="another checkout of clipmill, with its .venv")
    parser.add_argument("--processes", type=int, default=1, help="of clipmill serve, beside one")
    parser.add_argument("--only", help="comma-separated beginnings of names of servers")
    parser.add_argument("--out", type=Path, help="folder for the dated JSON")
    return parser.parse_args()


def _vectors(options: argparse.Namespace) -> tuple[str, list[Any]]:
    options.folder.mkdir(parents=True, exist_ok=True)
    uri = write(options.folder, options.rows, options.dim, options.kind)
    if not Path(f"{uri}.build.json").exists():
        size = ["--rows", str(options.rows), "--dim", str(options.dim), "--kind", options.kind]
        command = [sys.executable, "-m", "benchmarks.query", *size, "--folder", str(options.folder)]
        subprocess.run([*command, "--prepare", "clipmill"], check=True)
    return uri, list(query_vectors(QUESTIONS, options.dim, options.kind)[:QUESTIONS])


def _words(options: argparse.Namespace) -> tuple[str, list[Any]]:
    """Questions of words that clipmill-tiny knows, over a table that says it is its own."""
    from benchmarks.serving_words import questions, table

    return table(options.folder, options.rows), questions(TEXTS)


def _servers(options: argparse.Namespace, uri: str) -> list[Server]:
    serve = [sys.executable, "-m", "clipmill", "serve", uri, "--port", "{port}"]
    peer = [sys.executable, "-m", "benchmarks.serving_peers"]
    tail = ["clipmill-tiny"] if options.words else []
    servers = [Server(name="clipmill", command=serve)]
    if options.processes > 1:
        many = [*serve, "--processes", str(options.processes)]
        servers.insert(0, Server(name=f"clipmill, {options.processes} processes", command=many))
    if options.before:
        before = [str(options.before.resolve() / ".venv/bin/clipmill"), *serve[3:]]
        servers.append(Server(name="clipmill before", command=before, cwd=options.before))
    servers.append(Server(name="LanceDB, same index", command=[*peer, uri, "{port}", "0", "0", *tail]))
    command = [*peer, uri, "{port}", *_as_we_search(uri), *tail]
    servers.append(Server(name="LanceDB, same index, as far and refined", command=command))
    if Path(f"{uri}.build-LanceDB.json").exists():
        servers.append(Server(name="LanceDB, its index", command=[*peer, f"{uri}_lancedb", "{port}", "0", "0"]))
    if options.clip_retrieval and not options.words:
        files = _clip_retrieval_files(options, uri)
        script = [str(options.clip_retrieval), str(HERE / "benchmarks" / "serving_clip_retrieval.py")]
        command = [*script, "serve", *files, "{port}"]
        servers.append(Server(name="clip-retrieval", command=command, path="/knn-service", clip_retrieval=True))
    if options.only:
        servers = [one for one in servers if one.name.startswith(tuple(options.only.split(",")))]
    return servers


def _as_we_search(uri: str) -> tuple[str, str]:
    """Partitions that a plain search of ours looks into, and how many times the hits it compares exactly."""
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.querying.roads import choose_road

    snapshot = open_table(uri).snapshot
    road = choose_road(snapshot.vector_index("vector"), matches=None, total=snapshot.num_rows, depth=K, exact=False)
    return str(road.probes), str(road.proposed // K)


def _clip_retrieval_files(options: argparse.Namespace, uri: str) -> list[str]:
    """Its layout of our rows, and its own index of them."""
    embeddings, index = f"{uri}.clip-retrieval", f"{uri}.clip-retrieval-index"
    if not Path(embeddings).exists():
        export = ["export", uri, "--to", embeddings, "--format", "clip-retrieval"]
        subprocess.run([sys.executable, "-m", "clipmill", *export], check=True, cwd=HERE)
    if not Path(index).exists():
        script = str(HERE / "benchmarks" / "serving_clip_retrieval.py")
        subprocess.run([str(options.clip_retrieval), script, "index", embeddings, index], check=True)
    return [embeddings, index]


@contextlib.contextmanager
def running(server: Server) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    command = [part.replace("{port}", str(server.port)) for part in server.command]
    with tempfile.TemporaryFile() as log:
        server.process = subprocess.Popen(command, cwd=server.cwd, stdout=log, stderr=log)
        try:
            _until_it_answers(server, log)
            yield
        finally:
            server.process.terminate()
            server.process.wait(30)


def _until_it_answers(server: Server, log: Any) -> None:
    """`clipmill serve` loads its model and warms up beside its first answers: that is waited for."""
    until = time.monotonic() + 300
    while True:
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5):
                break
        except OSError:
            if server.process.poll() is not None or time.monotonic() > until:
                log.seek(0)
                raise SystemExit(f"{server.name} did not start:\n{log.read().decode()[-2000:]}") from None
            time.sleep(0.2)
    if not server.name.startswith("clipmill"):
        return
    if "processes" in server.name:
        time.sleep(5)  # another may answer than the one that is looked at
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=60) as answer:
            if json.load(answer).get("encoder") != "loading":
                break
        time.sleep(0.2)
    before = -1.0
    while (now := _cpu_s(server)) - before > 0.02:  # until nothing is read any more
        before = now
        time.sleep(1)


def ask(server: Server, questions: list[Any], clients: int, seconds: float) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}{server.path}"
    asked = {"url": url, "bodies": [server.body(q) for q in questions], "clients": clients, "seconds": seconds}
    before = _cpu_s(server)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving_load"],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=HERE,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    cpu_s = _cpu_s(server) - before
    load = os.getloadavg()[0]
    return result | {"cpu_ms": 1e3 * cpu_s / max(1, result["requests"]), "load": load}


def _cpu_s(server: Server) -> float:
    return cpu_s(server.process.pid)


def exactly_nearest(uri: str, questions: list[Any]) -> list[set[str]]:
    """Ids of the K nearest, exactly, of the first questions."""
    import lance

    asked = questions[: QUESTIONS + 64]
    if isinstance(asked[0], str):
        from clipmill.schemas.model import ModelSpec
        from clipmill.workers.load import load_text_engine

        queries_QD = load_text_engine(ModelSpec(name="clipmill-tiny")).encode_texts(asked)
    else:
        queries_QD = np.stack(asked)
    scores, ids = np.full((len(asked), 0), -2, dtype=np.float32), np.zeros((len(asked), 0), dtype="U16")
    for batch in lance.dataset(f"{uri}.lance").scanner(columns=["id", "vector"], batch_size=16_384).to_batches():
        rows_BD = np.asarray(batch.column("vector").flatten(), dtype=np.float32).reshape(batch.num_rows, -1)
        rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
        names = np.broadcast_to(np.array(batch.column("id").to_pylist(), dtype="U16"), (len(asked), len(rows_BD)))
        scores, ids = np.hstack([scores, queries_QD @ rows_BD.T]), np.hstack([ids, names])
        best = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
    return [set(row.tolist()) for row in ids]


def _results(servers: list[Server], memory: dict[str, Any], truth: list[set[str]]) -> dict[str, Any]:
    ours, results = servers[0], {}
    for server in servers:
        answers: dict[int, Any] = {}
        for one in server.rounds:
            answers |= one.pop("answers")
        found = {n: server.ids(answer) for n, answer in answers.items() if n < len(truth)}
        entry: dict[str, Any] = {"memory_mb": memory[server.name], "rounds": server.rounds}
        for name in ("per_s", "p50_ms", "p99_ms", "cpu_ms"):
            entry[name] = float(np.median([one[name] for one in server.rounds]))
        entry["recall"] = float(np.mean([len(set(ids) & truth[n]) / K for n, ids in found.items()]))
        for name in ("per_s", "p99_ms", "cpu_ms"):
            ratios = [a[name] / b[name] for a, b in zip(ours.rounds, server.rounds, strict=True)]
            entry[f"ours over this, {name}"] = [float(x) for x in np.percentile(ratios, (50, 0, 100))]
        results[server.name] = entry
    return results


def as_markdown(results: dict[str, Any]) -> str:
    lines = [
        "| server | requests/s | p50, p99 ms | CPU ms a request | recall@10 | memory MB | ours over it: requests/s |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, one in results.items():
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*one["ours over this, per_s"])
        lines.append(
            f"| {name} | {one['per_s']:.0f} | {one['p50_ms']:.0f}, {one['p99_ms']:.0f} | {one['cpu_ms']:.1f} "
            f"| {one['recall']:.3f} | {one['memory_mb']['now']:.0f} | {ratio} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
