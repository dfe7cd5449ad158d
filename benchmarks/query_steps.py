"""The measured steps of the query benchmark. Each runs in a process of its own, whose peak memory is the step's."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.query_cases import CASES, WARM_UP, WORDS, K, predicate_of, query_vectors, true_answers
from benchmarks.query_data import bench_fingerprint, kind_of

PAIRED_ROUNDS = 5
BRUTE_QUERIES = 10  # a third of a second and more each


def build(uri: str, queries: int, dim: int) -> dict[str, Any]:
    """`clipmill index`, anew."""
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    start = time.perf_counter()
    report = build_index(uri, IndexOptions(rebuild=True), tell=lambda text: print(text, file=sys.stderr))
    vectors = report.vectors[0]
    assert vectors.recall is not None
    return {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time(),  # of all threads, imports as well: comparable where others use the machine
        "kind": f"{vectors.kind} {vectors.bits} bits, {vectors.num_partitions} partitions",
        "reported_recall": vectors.recall.recall,
        "curve": asdict(vectors.curve) if vectors.curve else None,
        "peak_mb": _peak_mb(),
    }


def build_lancedb(uri: str, queries: int, dim: int) -> dict[str, Any]:
    """What `create_index(metric="cosine")` makes by default, and scalar indices like ours, on a copy of the table."""
    import lancedb
    from lancedb.index import BTree, IvfPq, LabelList

    start = time.perf_counter()
    table = lancedb.connect(str(Path(_copy_of(uri)).parent)).open_table(Path(_copy_of(uri)).name)
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    table.create_index("bucket", config=BTree())
    table.create_index("tags", config=LabelList())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_s": time.process_time(), "kind": "IVF_PQ as it comes", "peak_mb": _peak_mb()}


def copy(uri: str, queries: int, dim: int) -> dict[str, Any]:
    import lance

    if not Path(f"{_copy_of(uri)}.lance").exists():
        lance.write_dataset(lance.dataset(f"{uri}.lance").scanner().to_reader(), f"{_copy_of(uri)}.lance")
    return {}


def clipmill(uri: str, queries: int, dim: int) -> dict[str, Any]:
    """Every case without vectors in memory, as a script has it, and with them, as a server has it."""
    from clipmill.jobs.querying.open import Query, Table, open_table

    queries_QD = query_vectors(queries, dim, kind_of(uri))
    engine = TextEngine(queries_QD)
    result: dict[str, Any] = {}
    for place in ("script", "server"):
        table = open_table(uri, engine=engine)  # type: ignore[arg-type]  # that keeps no answer of the other's
        if place == "server":
            start = time.perf_counter()
            table.warm(memory_bytes=8_000_000_000)  # as `serve --memory 8GB`; ten million rows of 512 take 5.4
            result["warm_up_s"] = time.perf_counter() - start
        for name, case in CASES.items():

            def ask(n: int, filters: dict[str, Any], table: Table = table) -> list[str]:
                engine.n = n
                if filters.get("hybrid"):
                    found = table.search(WORDS[n % len(WORDS)], k=K, **filters)
                else:
                    found = table.search(vector=queries_QD[n], k=K, **filters)
                return found["id"].to_pylist()  # type: ignore[no-any-return]

            filters = {key: value for key, value in case(0).items() if key != "hybrid"}
            entry = result.setdefault(name, {"rows": table.count(Query(**filters))})
            entry[place] = timed(partial(_asked, ask, case, None), queries)
            if filters:
                again = timed(partial(_asked, ask, case, 0), queries)
                entry[f"{place} again"] = {key: again[key] for key in ("p50_ms", "p95_ms")}
    return {**result, "peak_mb": _peak_mb()}


def _asked(
    ask: Callable[[int, dict[str, Any]], list[str]], case: Callable[[int], dict[str, Any]], always: int | None, n: int
) -> list[str]:
    """`always`: the one filter of all questions; None: each its own."""
    return ask(n, case(n if always is None else always))


def paired(uri: str, queries: int, dim: int) -> dict[str, Any]:
    """p50 of each case by what was measured of the index over p50 by the constants that stand in where nothing was, and
    both p50 in milliseconds: the median of rounds in which both ran, one after the other, on tables newly opened."""
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.querying.snapshot import with_curve

    queries_QD = query_vectors(queries, dim, kind_of(uri))
    engine = TextEngine(queries_QD)
    warm = open_table(uri)
    warm.warm()
    p50_ms: dict[tuple[str, str, str], list[float]] = {}
    for turn in range(PAIRED_ROUNDS):
        for place in ("script", "server"):
            tables = {}
            for how in ("measured", "constants"):
                table = tables[how] = open_table(uri, engine=engine)  # type: ignore[arg-type]
                table.snapshot.warm = warm.snapshot.warm if place == "server" else {}
                index = table.snapshot.vector_index("vector")
                assert index is not None
                table.snapshot.assume("vector", index if how == "measured" else with_curve(index, None))
            for name in CASES:
                for how in sorted(tables, reverse=bool(turn % 2)):
                    found = timed(_asker(tables[how], engine, queries_QD, name), queries)
                    p50_ms.setdefault((name, place, how), []).append(found["p50_ms"])
    result: dict[str, Any] = {}
    for (name, place, how), values in p50_ms.items():
        result.setdefault(name, {}).setdefault(place, {})[how] = float(np.median(values))
        if how == "measured":
            ratios = np.divide(values, p50_ms[name, place, "constants"])
            result[name][place]["ratio"] = [float(x) for x in np.percentile(ratios, (50, 0, 100))]
    return result


def _asker(table: Any, engine: "TextEngine", queries_QD: npt.NDArray[np.float32], name: str) -> Callable[[int], Any]:
    def ask(n: int) -> list[str]:
        engine.n = n
        filters = CASES[name](n)
        found = (
            table.search(WORDS[n % len(WORDS)], k=K, **filters)
            if filters.get("hybrid")
            else table.search(vector=queries_QD[n], k=K, **filters)
        )
        return found["id"].to_pylist()  # type: ignore[no-any-return]

    return ask


def lancedb_defaults(uri: str, queries: int, dim: int) -> dict[str, Any]:
    return _lancedb(_copy_of(uri), queries, query_vectors(queries, dim, kind_of(uri)), brute=False)


def brute_force(uri: str, queries: int, dim: int) -> dict[str, Any]:
    return _lancedb(uri, min(queries, BRUTE_QUERIES), query_vectors(queries, dim, kind_of(uri)), brute=True)


def _lancedb(uri: str, queries: int, queries_QD: npt.NDArray[np.float32], *, brute: bool) -> dict[str, Any]:
    """LanceDB as it comes: `search(vector).where(...).limit(10)`, with its default index or, brute, with none."""
    import lancedb

    database, _, name = uri.rpartition("/")
    table = lancedb.connect(database).open_table(name)
    result: dict[str, Any] = {}
    for case_name, case in CASES.items():
        if case(0).get("hybrid"):
            continue

        def ask(n: int, case: Callable[[int], dict[str, Any]] = case) -> list[str]:
            search = table.search(queries_QD[n], vector_column_name="vector").distance_type("cosine").limit(K)
            search = search.bypass_vector_index() if brute else search
            search = search.where(predicate) if (predicate := predicate_of(case(n))) else search
            return search.select(["id", "caption", "tags", "_distance"]).to_arrow()["id"].to_pylist()  # type: ignore[no-any-return]

        result[case_name] = timed(ask, queries, warm_up=2 if brute else WARM_UP)
    return {**result, "peak_mb": _peak_mb()}


def timed(ask: Callable[[int], Any], queries: int, warm_up: int = WARM_UP) -> dict[str, Any]:
    """Answers, and p50 and p95 in milliseconds."""
    for n in range(queries, queries + warm_up):
        ask(n)
    answers, times_ms = [], []
    for n in range(queries):
        start = time.perf_counter()
        answers.append(ask(n))
        times_ms.append((time.perf_counter() - start) * 1e3)
    p50_ms, p95_ms = np.percentile(times_ms, (50, 95)).tolist()
    return {"p50_ms": p50_ms, "p95_ms": p95_ms, "answers": answers}


class TextEngine:
    """Turns the n-th "text" into the n-th query vector, so that hybrid queries can be asked without a model."""

    def __init__(self, queries_QD: npt.NDArray[np.float32]) -> None:
        self.queries_QD, self.n = queries_QD, 0
        self.dim, self.batch_size = queries_QD.shape[1], 1
        self.fingerprint = bench_fingerprint(self.dim)

    def encode_texts(self, texts: Any) -> npt.NDArray[np.float32]:
        return self.queries_QD[self.n : self.n + 1]


def _copy_of(uri: str) -> str:
    return f"{uri}_lancedb"


def _peak_mb() -> float:
    """Of this program alone: getrusage would count what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


STEPS: dict[str, Callable[[str, int, int], dict[str, Any]]] = {
    "build": build,
    "copy": copy,
    "build LanceDB": build_lancedb,
    "clipmill": clipmill,
    "paired": paired,
    "LanceDB defaults": lancedb_defaults,
    "brute force": brute_force,
    "truth": true_answers,
}
