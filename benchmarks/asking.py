"""Searches in a script, timed from within: `benchmarks.against` runs this file by each of two builds.

    PYTHON -I benchmarks/asking.py < a JSON object: uri, vectors, kinds, warm_up

So it imports nothing beside it, and of the build only what scripts use. `vectors`: a .npy file, (Q, D) float32.
`kinds`: by name, what is asked: arguments of `Table.search`, of which `vector` is a number of a row of the file; the
first `warm_up` of each are not timed. Prints by kind the CPU seconds of a search, of all threads, the median of its
wall seconds and the ids found, or what went wrong; and the process's peak memory.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def open_table(uri: str) -> Any:
    try:
        from clipmill import open_table as opened
    except ImportError:  # what it was called in checkouts that had no package of this name
        from jobs.query import open_table as opened  # type: ignore[import-not-found,no-redef]
    return opened(uri)


def ask(table: Any, vectors_QD: Any, questions: list[dict[str, Any]], warm_up: int) -> dict[str, Any]:
    """Raises what the search raises."""
    answers, walls_s = list[list[str]](), list[float]()
    used_s = 0.0
    for turn, question in enumerate(questions):
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in question.items()}
        if "vector" in given:
            given["vector"] = vectors_QD[given["vector"]]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        ids = table.search(**given)["id"].to_pylist()
        if turn >= warm_up:
            used_s += time.process_time() - cpu_s
            walls_s.append(time.perf_counter() - wall_s)
            answers.append(ids)
    return {"cpu_s": used_s / len(walls_s), "wall_s": statistics.median(walls_s), "answers": answers}


def main() -> None:
    asked = json.load(sys.stdin)
    vectors_QD, table = np.load(asked["vectors"]), open_table(asked["uri"])
    found: dict[str, Any] = {}
    for kind, questions in asked["kinds"].items():
        try:
            found[kind] = ask(table, vectors_QD, questions, asked["warm_up"])
        except Exception as error:  # noqa: BLE001 - whatever an older build has against it
            found[kind] = {"error": f"{type(error).__name__}: {error}"}
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(json.dumps({"kinds": found, "peak_mb": int(peak) / 1e3}))


if __name__ == "__main__":
    main()
