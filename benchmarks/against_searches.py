"""The searches of `benchmarks.against`: the same questions in a script and to a server, by two builds in turn.

Each build searches the table that it has indexed itself; the rows are the same. In a script nothing is in memory. The
servers run side by side and are asked in turn: one kind of question after the other by one client, then plain ones by
many at once. Questions by words are new ones each time, since a server remembers those that it has answered.

Q: questions. D: dimension.
"""

import contextlib
import json
import statistics
import subprocess
import sys
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.against_cases import INDEXED
from benchmarks.process import memory_mb
from benchmarks.query_cases import CASES, K, query_vectors
from benchmarks.serving import HERE, Server, ask, exactly_nearest, running
from benchmarks.serving_words import DIM, questions

KINDS = ("plain", "5 %", "far tag, 0.3 %", "words", "hybrid")
WARM_UP, QUESTIONS, CLIENTS = 8, 64, 32
SECONDS, SECONDS_OF_MANY = 2.0, 3.0
MEMORY = {"script": "memory of the script", "server": "memory of the server, after all that"}
CASES_HERE = (
    *(f"search {kind}, {place}" for place in MEMORY for kind in KINDS),
    f"serve, {CLIENTS} clients",
    *MEMORY.values(),
)
COLUMNS = ["id", "caption", "tags"]
Pairs = list[dict[str, dict[str, Any]]]


def searches(builds: dict[str, Path], folder: Path, rounds: int) -> dict[str, Pairs]:
    """By case, the rounds, in each what was measured of `before` and of `now`; `error` is what one could not do.
    `builds`: their `clipmill`. `folder` has the builds' own folders."""
    vectors_QD = query_vectors(QUESTIONS * 4, DIM, "clustered")
    np.save(folder / "questions.npy", vectors_QD)
    nearest = exactly_nearest(f"{folder}/now/{INDEXED}", list(vectors_QD))
    words = cycle(questions(16_384))
    found: dict[str, Pairs] = {}
    for turn in range(rounds):
        asked = {kind: list(islice(_questions(kind, words, len(vectors_QD)), WARM_UP + QUESTIONS)) for kind in KINDS}
        for name in _in_turn(builds, turn):
            for case, one in in_script(builds[name], folder, folder / name / INDEXED, asked).items():
                if "answers" in one and "plain" in case:
                    one["recall"] = _recall(asked["plain"][WARM_UP:], one.pop("answers"), nearest)
                _put(found, case, turn, name, one)
    servers = {
        name: Server(name="clipmill", command=[str(path), "serve", f"{folder}/{name}/{INDEXED}", "--port", "{port}"])
        for name, path in builds.items()
    }
    with contextlib.ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(running(server))
        for turn in range(rounds):
            asked = {kind: list(islice(_questions(kind, words, len(vectors_QD)), 1500)) for kind in KINDS}
            for name in _in_turn(builds, turn):
                for case, one in to_server(servers[name], asked, vectors_QD, nearest).items():
                    _put(found, case, turn, name, one)
        memory = {name: memory_mb(server.process.pid) for name, server in servers.items()}
    found[MEMORY["server"]] = [{name: {"peak_mb": one["peak"]} for name, one in memory.items()}]
    return found


def _questions(kind: str, words: Any, vectors: int) -> Any:
    """Without end; `vector` is the number of one."""
    for n in count():
        if kind in CASES and not CASES[kind](n).get("hybrid"):
            yield {"vector": n % vectors, **CASES[kind](n)}
        else:
            yield {"text": next(words), **({"hybrid": True} if kind == "hybrid" else {})}


def in_script(clipmill: Path, folder: Path, uri: Path, asked: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One process of the build, by case."""
    kinds = {kind: [{"k": K, **question} for question in of_kind] for kind, of_kind in asked.items()}
    given = {"uri": str(uri), "vectors": f"{folder}/questions.npy", "kinds": kinds, "warm_up": WARM_UP}
    command = [str(clipmill.with_name("python")), "-I", str(HERE / "benchmarks/asking.py")]
    done = subprocess.run(command, input=json.dumps(given), stdout=subprocess.PIPE, text=True, cwd=folder)
    if done.returncode:
        return {f"search {kind}, script": {"error": f"ended with {done.returncode}"} for kind in asked}
    said = json.loads(done.stdout.splitlines()[-1])
    results = {f"search {kind}, script": one for kind, one in said["kinds"].items()}
    return results | {MEMORY["script"]: {"peak_mb": said["peak_mb"]}}


def to_server(
    server: Server, asked: dict[str, list[dict[str, Any]]], vectors_QD: npt.NDArray[np.float32], nearest: list[set[str]]
) -> dict[str, Any]:
    """Both builds' servers get the same questions; how many of them depends on how fast it is."""

    def measured(of_kind: list[dict[str, Any]], clients: int, seconds: float) -> dict[str, Any]:
        bodies = [
            question | ({"vector": vectors_QD[question["vector"]]} if "vector" in question else {})
            for question in of_kind
        ]
        said = ask(server, bodies, clients, seconds)
        if said["errors"] or not said["requests"]:
            return {"error": f"answered {said['errors']}"}
        return {"cpu_s": said["cpu_ms"] / 1e3, "wall_s": said["p50_ms"] / 1e3, "per_s": said["per_s"]} | {
            "answers": {int(n): server.ids(answer) for n, answer in said["answers"].items()}
        }

    found = {f"search {kind}, server": measured(of_kind, 1, SECONDS) for kind, of_kind in asked.items()}
    found[f"serve, {CLIENTS} clients"] = measured(asked["plain"], CLIENTS, SECONDS_OF_MANY)
    for case, one in found.items():
        answers = one.pop("answers", {})
        if answers and ("plain" in case or case.startswith("serve")):
            one["recall"] = _recall([asked["plain"][n] for n in answers], list(answers.values()), nearest)
    return found


def _recall(asked: list[dict[str, Any]], answers: list[list[str]], nearest: list[set[str]]) -> float:
    shares = [len(nearest[one["vector"]] & set(ids)) / K for one, ids in zip(asked, answers, strict=True)]
    return round(statistics.mean(shares), 4)


def _in_turn(builds: dict[str, Path], turn: int) -> list[str]:
    return sorted(builds, reverse=bool(turn % 2))


def _put(found: dict[str, Pairs], case: str, turn: int, name: str, one: dict[str, Any]) -> None:
    one.pop("answers", None)
    print(f"{case}, {name}: {one}", file=sys.stderr)
    pairs = found.setdefault(case, [])
    if len(pairs) == turn:
        pairs.append({})
    pairs[turn][name] = one
