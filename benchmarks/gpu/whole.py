"""`clipmill embed` itself: Ray, one actor pinned to the GPU, tars on a local disk, a Lance table, `verify --sample`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import meters
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report

ROOT = Path(__file__).parents[2]
# Of what a run says at its end.
KEPT = (
    *("seen", "rows", "samples_per_s", "limited_by", "loads", "startup_s", "first_rows_s", "seconds", "device"),
    *("estimated_samples_per_s", "estimate_basis", "workers", "worker_restarts", "attempts_failed", "attempts_lost"),
    *("commits", "peak_worker_bytes", "driver_peak_bytes", "failed_units"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command came to."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    def last_lines(self, count: int = 6) -> list[str]:
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return [line[:300] for line in lines[-count:]]


def environment() -> dict[str, str]:
    """clipmill need not be installed here: a checkout on the path is enough, for Ray's workers too."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def start(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "clipmill", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(), cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def ended(process: "subprocess.Popen[str]", timeout_s: float) -> Said:
    begun = time.monotonic()
    try:
        stdout, stderr = process.communicate(timeout=max(1.0, timeout_s))
    except subprocess.TimeoutExpired:
        process.terminate()
        stdout, stderr = process.communicate()
        stderr += f"\nstopped after {timeout_s:.0f} s\n"
    return Said(exit_code=process.returncode, stdout=stdout, stderr=stderr, seconds=time.monotonic() - begun)


def command(*words: str, timeout_s: float) -> Said:
    return ended(start(*words), timeout_s)


def job_file(setting: Setting, name: str, model: Mapping[str, Any], **more: Any) -> tuple[Path, str]:
    """A job over the drawn tars on one actor, and its table; sections in `more` replace it."""
    table = str(setting.folder / "tables" / name / "images")
    job = {
        "table": table,
        "source": {"format": "webdataset", "uri": f"{setting.tars}/*.tar", "caption": "txt"},
        "model": dict(model),
        "workers": {"num": 1, "gpus": 1 if setting.on_gpu else 0, "cpus": max(1, setting.threads - 1)},
        **more,
    }
    path = setting.folder / f"{name}.json"
    path.write_text(json.dumps(job))  # every JSON file is a YAML file
    return path, table


def model_of(setting: Setting, name: str) -> dict[str, Any]:
    """The stub where only the code is tried: what a real model costs to load is paid by the other steps."""
    return {"name": "stub"} if setting.small else setting.model(name)


def outcome(said: Said) -> dict[str, Any]:
    """Its exit code and summary, or what it said last where there is none."""
    try:
        summary = json.loads(said.stdout)
    except ValueError:
        return {"exit_code": said.exit_code, "said": said.last_lines()}
    return {"exit_code": said.exit_code, **{name: summary[name] for name in KEPT if name in summary}}


def verified(table: str, timeout_s: float) -> dict[str, Any]:
    said = command("verify", table, "--sample", "10", "--json", timeout_s=timeout_s)
    try:
        return {"exit_code": said.exit_code, **json.loads(said.stdout)}
    except ValueError:
        return {"exit_code": said.exit_code, "said": said.last_lines()}


def run(setting: Setting, report: Report) -> None:
    for name in ("ViT-L-14", "ViT-B-32")[: 1 if setting.small else 2]:
        report.case(f"embed {name}", 0 if setting.small else 30, partial(embedded, setting, report, name))


def embedded(setting: Setting, report: Report, name: str) -> dict[str, Any]:
    path, table = job_file(setting, f"whole-{name}-{os.getpid()}", model_of(setting, name))
    with meters.BusyGpu(setting.device) as busy:
        found = outcome(command("embed", str(path), "--json", timeout_s=report.left_s))
    found["gpu_busy_percent_with_start"] = busy.percent
    if found.get("estimated_samples_per_s"):
        found["reached_over_plan"] = round(found["samples_per_s"] / found["estimated_samples_per_s"], 3)
    found["verify"] = verified(table, report.left_s)
    return found
