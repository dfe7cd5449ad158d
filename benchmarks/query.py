"""Search at a million: times, recall and memory of clipmill beside brute force and LanceDB's defaults.

    python -m benchmarks.query [--rows 1000000] [--folder DIR] [--peers] [--out benchmarks/results]

Each system is measured in a process of its own; peak memory is that process's. Recall@10 is against exact cosines of
the stored float16 vectors under the same filter. Queries are drawn from the same mixture by another seed, one at a
time, after 20 to warm up.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.query_data import Mixture, bench_fingerprint, write

K = 10
WARM_UP = 20
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "50 %": {"where": "bucket < 500"},
    "5 %": {"where": "bucket < 50"},
    "0.1 %": {"where": "bucket < 1"},
    "tag of 7 %": {"any_tags": ("red",)},
    "tag of 0.5 %": {"any_tags": ("thing007",)},
    "without tag": {"no_tags": ("red",)},
    "hybrid": {"hybrid": True},
    "hybrid, 5 %": {"hybrid": True, "where": "bucket < 50"},
}
WORDS = ("red", "old thing100", "small thing044", "scene 12", "wet")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def timed(ask: Callable[[int], Any], queries: int) -> tuple[list[Any], dict[str, float]]:
    """Answers, and p50 and p95 in milliseconds."""
    for n in range(min(WARM_UP, queries)):
        ask(n)
    answers, times_ms = [], []
    for n in range(queries):
        start = time.perf_counter()
        answers.append(ask(n))
        times_ms.append((time.perf_counter() - start) * 1e3)
    return answers, {"p50_ms": float(np.percentile(times_ms, 50)), "p95_ms": float(np.percentile(times_ms, 95))}


def recall(found: list[list[str]], truth: list[list[str]]) -> float:
    return float(np.mean([len(set(f) & set(t)) / max(len(t), 1) for f, t in zip(found, truth, strict=True)]))


class TextEngine:
    """Turns the n-th "text" into the n-th query vector, so that hybrid queries can be asked without a model."""

    def __init__(self, queries_QD: np.ndarray) -> None:
        self.queries_QD, self.n = queries_QD, 0
        self.dim, self.batch_size = queries_QD.shape[1], 1
        self.fingerprint = bench_fingerprint(self.dim)

    def encode_texts(self, texts: Any) -> np.ndarray:
        return self.queries_QD[self.n : self.n + 1]


def build(uri: str, options: argparse.Namespace) -> dict[str, Any]:
    from jobs.index import IndexOptions, build_index

    start = time.perf_counter()
    report = build_index(uri, IndexOptions(), tell=lambda text: print(text, file=sys.stderr))
    vectors = report.vectors[0]
    return {
        "seconds": time.perf_counter() - start,
        "done": vectors.done,
        "kind": f"{vectors.kind} {vectors.bits} bits, {vectors.num_partitions} partitions",
        "reported_recall": vectors.recall.recall if vectors.recall else None,
        "peak_mb": peak_mb(),
    }


def clipmill(uri: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every case with vectors kept in memory, as a server has it, and without, as a script has it."""
    from jobs.query import Query, open_table

    queries_QD = Mixture(options.dim).draw(options.queries, seed=77)[0]
    engine = TextEngine(queries_QD)
    table = open_table(uri, engine=engine)  # type: ignore[arg-type]
    result: dict[str, Any] = {}
    for mode in ("script", "server"):
        if mode == "server":
            start = time.perf_counter()
            table.warm()
            result["warm_up_s"] = time.perf_counter() - start
        for name, case in CASES.items():

            def ask(n: int, case: dict[str, Any] = case) -> list[str]:
                engine.n = n
                if case.get("hybrid"):
                    found = table.search(WORDS[n % len(WORDS)], k=K, **case)
                else:
                    found = table.search(vector=queries_QD[n], k=K, **case)
                return found["id"].to_pylist()

            answers, times = timed(ask, options.queries)
            result.setdefault(name, {"rows": table.count(Query(**{k: v for k, v in case.items() if k != "hybrid"}))})
            result[name][mode] = {**times, "answers": answers}
    for name, case in CASES.items():
        truth = true_answers(table, queries_QD, case)
        for mode in ("script", "server"):
            result[name][mode]["recall"] = recall(result[name][mode].pop("answers"), truth)
        result[name]["truth"] = truth
    result["peak_mb"] = peak_mb()
    return result


def true_answers(table: Any, queries_QD: np.ndarray, case: dict[str, Any]) -> list[list[str]]:
    """Ids of the exact answers: one pass over the vectors for all queries; for hybrid, that ranking fused with BM25."""
    from jobs.indexing.recall import brute_force
    from jobs.querying.hybrid import MIN_CANDIDATES, full_text, fuse

    snapshot, predicate = table.snapshot, predicate_of(case)
    depth = MIN_CANDIDATES if case.get("hybrid") else K
    ranked = brute_force(snapshot.dataset, "vector", queries_QD, depth, predicate)
    if case.get("hybrid"):
        for n, by_vector in enumerate(ranked):
            by_text = full_text(snapshot, WORDS[n % len(WORDS)], depth, predicate)["_rowid"].to_pylist()
            scores = fuse(by_vector, by_text, 0.5)
            ranked[n] = sorted(scores, key=lambda row: (-scores[row], row))[:K]
    return [snapshot.dataset._take_rows(rows, columns=["id"])["id"].to_pylist() for rows in ranked]


def predicate_of(case: dict[str, Any]) -> str | None:
    if "any_tags" in case:
        return f"array_has_any(tags, ['{case['any_tags'][0]}'])"
    if "no_tags" in case:
        return f"NOT array_has_any(tags, ['{case['no_tags'][0]}'])"
    return case.get("where")


def lancedb_queries(uri: str, options: argparse.Namespace, *, brute: bool) -> dict[str, Any]:
    """LanceDB as it comes: `search(vector).where(...).limit(10)`, with its default index or, brute, with none."""
    import lancedb

    queries_QD = Mixture(options.dim).draw(options.queries, seed=77)[0]
    database, _, name = uri.rpartition("/")
    table = lancedb.connect(database).open_table(name)
    queries = min(options.queries, 20) if brute else options.queries
    result: dict[str, Any] = {}
    for case_name, case in CASES.items():
        if case.get("hybrid"):
            continue
        predicate = predicate_of(case)

        def ask(n: int, predicate: str | None = predicate) -> list[str]:
            search = table.search(queries_QD[n], vector_column_name="vector").distance_type("cosine").limit(K)
            search = search.bypass_vector_index() if brute else search
            search = search.where(predicate) if predicate else search
            return search.select(["id", "caption", "tags", "_distance"]).to_arrow()["id"].to_pylist()

        answers, times = timed(ask, queries)
        result[case_name] = {**times, "answers": answers}
    result["peak_mb"] = peak_mb()
    return result


def lancedb_defaults(uri: str, options: argparse.Namespace) -> dict[str, Any]:
    """A copy of the table with the index that `create_index(metric="cosine")` makes and scalar ones like ours."""
    import lance
    import lancedb
    from lancedb.index import BTree, IvfPq, LabelList

    copy = Path(f"{uri}_lancedb")
    start = time.perf_counter()
    if not Path(f"{copy}.lance").exists():
        lance.write_dataset(lance.dataset(f"{uri}.lance").scanner().to_reader(), f"{copy}.lance")
        table = lancedb.connect(str(copy.parent)).open_table(copy.name)
        table.create_index("vector", config=IvfPq(distance_type="cosine"))
        table.create_index("bucket", config=BTree())
        table.create_index("tags", config=LabelList())
    seconds = time.perf_counter() - start
    return {"build_s": seconds, **lancedb_queries(str(copy), options, brute=False)}


STEPS: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "build": build,
    "clipmill": clipmill,
    "brute force": lambda uri, options: lancedb_queries(uri, options, brute=True),
    "LanceDB defaults": lancedb_defaults,
}


def in_process(step: str, uri: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step in a fresh process, so that its peak memory is its own."""
    arguments = ["--rows", str(options.rows), "--dim", str(options.dim), "--queries", str(options.queries)]
    command = [sys.executable, "-m", "benchmarks.query", *arguments, "--step", step, "--uri", uri]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "clipmill-bench")
    parser.add_argument("--peers", action="store_true", help="also brute force and LanceDB's defaults")
    parser.add_argument("--out", type=Path, help="folder for the dated JSON")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.uri, options)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    uri = write(options.folder, options.rows, options.dim)
    steps = list(STEPS) if options.peers else ["build", "clipmill"]
    report = {"machine": machine(), "rows": options.rows, "dim": options.dim, "queries": options.queries}
    report["results"] = results = {step: in_process(step, uri, options) for step in steps}
    score_peers(results)
    print(as_markdown(results))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"query-{options.rows}-{datetime.now(UTC):%Y-%m-%d}.json"
        (options.out / name).write_text(json.dumps(report, indent=1) + "\n")


def score_peers(results: dict[str, Any]) -> None:
    """Put recall in place of answers, and drop the truth."""
    truths = {name: results["clipmill"][name].pop("truth") for name in CASES}
    for step in set(results) & {"brute force", "LanceDB defaults"}:
        for case in results[step].values():
            if isinstance(case, dict):
                answers = case.pop("answers")
                name = next(n for n, c in results[step].items() if c is case)
                case["recall"] = recall(answers, truths[name][: len(answers)])


def as_markdown(results: dict[str, Any]) -> str:
    built = results["build"]
    lines = [f"build: {built['kind']}, {built['seconds']:.0f} s, peak {built['peak_mb']:.0f} MB ({built['done']})", ""]
    columns = {"script": ("clipmill", "script"), "server": ("clipmill", "server")}
    columns |= {step: (step, None) for step in ("LanceDB defaults", "brute force") if step in results}
    lines.append("| query | rows | " + " | ".join(f"{name}: p50 / p95 ms, recall@10" for name in columns) + " |")
    lines.append("|---|---|" + "---|" * len(columns))
    for name in CASES:
        cells = []
        for step, mode in columns.values():
            case = results[step].get(name)
            case = case.get(mode) if case and mode else case
            cells.append(f"{case['p50_ms']:.1f} / {case['p95_ms']:.1f}, {case['recall']:.3f}" if case else "-")
        lines.append(f"| {name} | {results['clipmill'][name]['rows']:,} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"{step}: peak {result['peak_mb']:.0f} MB" for step, result in results.items()]
    return "\n".join(lines)


def machine() -> dict[str, str]:
    import lance
    import lancedb

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": f"{os.cpu_count()} x {cpu or platform.processor()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "pylance": lance.__version__,
        "lancedb": lancedb.__version__,
    }


if __name__ == "__main__":
    main()
