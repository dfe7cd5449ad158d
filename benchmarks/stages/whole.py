"""The whole job, through Ray, S3 and Lance, and the CPU time of all its processes."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from benchmarks.stages.alone import job_of


def job(options: argparse.Namespace) -> dict[str, Any]:
    """The main job through Ray, S3 and Lance, start-up left out."""
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.actors import dispatch
    from clipmill.jobs.running.options import Options

    server_cpu_s, used_s = _cpu_s(options.server_pid), 0.0
    run = dispatch.Dispatcher.run

    def counted(self: dispatch.Dispatcher, on_tick: Callable[[], None] = lambda: None) -> None:
        nonlocal used_s
        before_s = _tree_cpu_s()
        run(self, on_tick)
        used_s = _tree_cpu_s() - before_s

    dispatch.Dispatcher.run = counted  # type: ignore[method-assign]
    summary = embed.run(job_of(options, f"job_{os.getpid()}"), Options(num_cpus=options.threads))
    assert not summary.failed_units, summary
    return {
        "samples": summary.seen,
        "rows": summary.rows,
        "samples_per_s": summary.samples_per_s,
        "with_index_samples_per_s": round(summary.seen / (summary.seconds - summary.startup_s), 2),
        "startup_s": summary.startup_s,
        "first_rows_s": summary.first_rows_s,
        "limited_by": summary.limited_by,
        "cpu_ms_per_sample": 1000 * used_s / summary.seen,
        # Of the whole run, start-up included: a little more than the work took.
        "server_cpu_ms_per_sample": 1000 * (_cpu_s(options.server_pid) - server_cpu_s) / summary.seen,
    }


def _tree_cpu_s() -> float:
    """CPU seconds so far of this process and all below it: the driver, Ray's own processes, the workers."""
    import psutil

    me = psutil.Process()
    return sum(_cpu_s(process.pid) for process in (me, *me.children(recursive=True)))


def _cpu_s(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
