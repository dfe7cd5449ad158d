"""A night with nothing new over 100,000 units, beside `clipmill plan` of the same source, by turns in one process.

    python -m benchmarks.idle_night [--units 100000] [--times 5] [--out benchmarks/results]

Tars by name only (nothing of them is read), 1,000 to a folder, on a local disk; and the same names in the tests' S3
server, in a process of its own on this machine, 1,000 a page. The table is on the local disk. Wall time says what a
person waits, and on a machine that does other things mostly that; CPU time is this process's alone. Best and median.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.fake_s3 import FakeS3
from tests.publishing.test_idle import published, versions

_SIDE_S = 3_600.0


def names(units: int) -> list[str]:
    return [f"raw/{number // 1000:03d}/{number:06d}.tar" for number in range(units)]


def local(folder: Path, units: int) -> str:
    for name in names(units):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return f"{folder}/raw/*/*.tar"


def serve(units: int) -> None:
    """Says where it listens, and stays."""
    store = FakeS3()
    store.listing = names(units)
    with store.running():
        print(store.endpoint, flush=True)
        time.sleep(_SIDE_S)


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """(wall seconds, CPU seconds, what it returned)"""
    began, cpu_s = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - began, time.process_time() - cpu_s, found


def measure(folder: Path, uri: str, units: int, times: int, **storage: str) -> dict[str, Any]:
    from clipmill.jobs.planning.dry_run import dry_run
    from clipmill.jobs.publishing.nightly import nightly

    job = published(folder, uri, **storage)
    before = versions(job)
    taken: dict[str, list[tuple[float, float]]] = {"plan": [], "nightly": []}
    for _ in range(times):
        wall_s, cpu_s, plan = timed(lambda: dry_run(job))
        taken["plan"].append((wall_s, cpu_s))
        wall_s, cpu_s, night = timed(lambda: nightly(job, say=lambda text: None))
        taken["nightly"].append((wall_s, cpu_s))
        assert (plan.units, plan.done, night.status, night.units) == (units, units, "nothing", units)
    assert versions(job) == before, "a night with nothing new commits nothing"
    found: dict[str, Any] = {"units": units}
    for name, pairs in taken.items():
        for what, values in zip(("wall_s", "cpu_s"), zip(*pairs, strict=True), strict=True):
            found[f"{name}_{what}"] = {"best": round(min(values), 2), "median": round(statistics.median(values), 2)}
    ratios = [night[0] / plan[0] for plan, night in zip(taken["plan"], taken["nightly"], strict=True)]
    best = min(pair[0] for pair in taken["nightly"]) / min(pair[0] for pair in taken["plan"])
    return {**found, "ratio_of_pairs": [round(one, 2) for one in ratios], "ratio_of_best": round(best, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.units)
        return 0
    results: dict[str, Any] = {"at": machine.now(), "load_before": [round(x, 1) for x in os.getloadavg()]}
    with tempfile.TemporaryDirectory(prefix="clipmill-idle-") as folder:
        here = Path(folder)
        results["local"] = measure(here / "local", local(here, given.units), given.units, given.times)
        side = [sys.executable, "-m", "benchmarks.idle_night", "--serve", "--units", str(given.units)]
        with subprocess.Popen(side, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                endpoint = server.stdout.readline().strip()
                os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
                uri = "s3://b/raw/*/*.tar"
                results["s3"] = measure(here / "s3", uri, given.units, given.times, endpoint_url=endpoint)
            finally:
                server.kill()
    results["machine"] = machine.machine(("pylance", "pyarrow", "s3fs", "botocore"))
    print(json.dumps(results, indent=2))
    if given.out is not None:
        machine.save(machine.dated(given.out, "idle-night"), [results])
    return 0


if __name__ == "__main__":
    sys.exit(main())
