"""Ten thousand units through the whole main job: what a unit costs beside its pictures, and what the driver holds.

    python -m benchmarks.scale [--units 10000] [--workers 2] [--out benchmarks/results]
    python -m benchmarks.scale --units 1000 --workers 1 2 4 8      # the same for each number of actors

Tars of one tiny picture each on a local disk, the stub model, a Ray cluster of this process: nearly all of the time
is overhead (survey, dispatch, tar reader, one Lance fragment, receipt, commit, ledger, compaction). Memory is the
driver's growth over itself when it had imported everything and was connected, because importing lance and ray alone
takes about 150 MB (by hand, 2026-11-21). It is the anonymous memory, looked at every 20 ms: pages of the libraries'
files that come in as their code is first used were half of what VmHWM showed (80 of 140 to 160 MB for 6,000 units, by
hand, 2026-11-28), depend on the machine's page cache, and are the system's to drop. `driver_held_mb` is what is left
when the run is over and what is free has been given back: a leak shows there, whatever the peak. CPU time is given
beside wall time: on a machine that does other things only the former says much.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.build import picture, tar

FOLDERS_OF = 1000  # tars per folder, so that no directory is huge


def make_source(folder: Path, units: int) -> str:
    """`units` tars of one picture each below `folder`; returns the glob that names them."""
    image = picture(1, size_HW=(16, 16))
    for number in range(units):
        path = folder / f"{number // FOLDERS_OF:03d}" / f"{number:06d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar([(f"{number:06d}.jpg", image)]))
    return f"{folder}/*/*.tar"


def memory_bytes(field: str) -> int:
    """VmRSS, or RssAnon, of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


class Peak:
    """The most anonymous memory of this process inside the block, looked at every 20 ms."""

    def __init__(self) -> None:
        self.bytes = memory_bytes("RssAnon")
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak", daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._left.wait(0.02):
            self.bytes = max(self.bytes, memory_bytes("RssAnon"))


def worker_cpu_s() -> float:
    """CPU seconds of all actors of this process's cluster so far."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::EmbedWorker"):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def measure(folder: Path, units: int, cpus: int) -> dict[str, Any]:
    """Run the job and look at memory and CPU time while it does."""
    from clipmill.jobs.cluster import connect as cluster
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.actors import dispatch
    from clipmill.jobs.running.options import Options
    from clipmill.jobs.table import memory
    from clipmill.jobs.verifying import verify
    from clipmill.schemas.job.config import JobFile, Storage

    made_s = time.monotonic()
    uri = make_source(folder / "source", units)
    made_s = time.monotonic() - made_s
    job = JobFile.model_validate(
        {
            "table": f"{folder}/db/images",
            "source": {"format": "webdataset", "uri": uri},
            "model": {"name": "stub"},
            "workers": {"num": cpus, "cpus": 1},
            "commit": {"every_s": 5},
        }
    )
    seen: dict[str, Any] = {"worker_cpu_s": 0.0, "began": 0.0, "driver_cpu_s": 0.0}
    run = dispatch.Dispatcher.run
    peak = Peak()

    def timed(self: dispatch.Dispatcher, on_tick: Any = lambda: None) -> None:
        began, cpu_s, workers_s = time.monotonic(), time.process_time(), worker_cpu_s()
        run(self, on_tick)
        seen["dispatch_s"] = time.monotonic() - began
        seen["driver_cpu_s"] = time.process_time() - cpu_s
        seen["worker_cpu_s"] = worker_cpu_s() - workers_s
        seen["peak"] = peak.bytes

    dispatch.Dispatcher.run = timed  # type: ignore[method-assign]
    with cluster.connected(None, num_cpus=cpus):
        _import_all()
        memory.give_back()
        idle = memory_bytes("RssAnon")
        with peak:
            cpu_s = time.process_time()
            summary = embed.run(job, Options(num_cpus=cpus))
            cpu_s = time.process_time() - cpu_s
        memory.give_back()
        held = memory_bytes("RssAnon") - idle
        again = time.monotonic()
        embed.run(job, Options(num_cpus=cpus))
        again = time.monotonic() - again
    report = verify.verify(job.table, Storage())
    assert summary.units == units, summary
    assert report.problems == [], report.problems
    from clipmill.jobs.table.tables import Tables

    tables = Tables.at(job.table)
    rows = tables.open()
    return {
        "units": units,
        "seconds": round(summary.seconds, 1),
        "units_per_s": round(units / seen["dispatch_s"], 1),
        "dispatch_ms_per_unit": round(1000 * seen["dispatch_s"] / units, 2),
        "driver_cpu_ms_per_unit": round(1000 * seen["driver_cpu_s"] / units, 2),
        "worker_cpu_ms_per_unit": round(1000 * seen["worker_cpu_s"] / units, 2),
        "whole_run_driver_cpu_s": round(cpu_s, 1),
        "driver_idle_mb": round(idle / 1e6, 1),
        "driver_growth_mb": round((seen["peak"] - idle) / 1e6, 1),
        "driver_growth_with_indexing_mb": round((peak.bytes - idle) / 1e6, 1),
        "driver_held_mb": round(held / 1e6, 1),
        "bound_mb": round(150 + units / 1000 + _manifest_bytes(tables.rows) / 1e6, 1),
        "indices": sorted(str(index.name) for index in rows.describe_indices()),
        "commits": summary.commits,
        "fragments": len(rows.get_fragments()),
        "ledger_fragments": len(tables.open("units").get_fragments()),
        "manifest_kb": round(_manifest_bytes(tables.rows) / 1e3, 1),
        "nothing_to_do_s": round(again, 1),
        "making_tars_s": round(made_s, 1),
    }


def _import_all() -> None:
    import importlib

    for name in (
        "lance.file",
        "lance.fragment",
        "lance.optimize",
        "clipmill.jobs.running.work",
        "clipmill.workers.actor",
        "clipmill.workers.write",
    ):
        importlib.import_module(name)


def _manifest_bytes(rows_uri: str) -> int:
    """Size of the table's largest manifest on a local disk."""
    folder = Path(rows_uri.removeprefix("file://")) / "_versions"
    return max(path.stat().st_size for path in folder.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="actors, one logical CPU each")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    out = given.out.resolve() if given.out else None  # the run changes the folder
    results = []
    for workers in given.workers:
        with tempfile.TemporaryDirectory(prefix="clipmill-scale-") as folder:
            figures = measure(Path(folder), given.units, workers)
        results.append({"at": machine.now(), "workers": workers, **figures, "machine": machine.machine()})
        print(json.dumps(results[-1]), file=sys.stderr)
    print(json.dumps(results, indent=2))
    if out is not None:
        machine.save(machine.dated(out, f"scale-{given.units}"), results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
