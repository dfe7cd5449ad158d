"""What the driver does when a worker is killed in mid-batch, and when the device runs out of memory, on purpose.

A worker that dies costs an attempt of the units it had; the run goes on with another one, and every sample is there
once. Out of memory halves the batch. Without room for the model itself the command ends, and says why.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu import drawn, roads, whole
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report

KEEP_FOR_A_MODEL_MB = 2600  # a context, a B/32 in bf16 and its fp32 reference; not a batch of 4,000
KEEP_FOR_NOTHING_MB = 300
_INTO_A_BATCH_S = 0.5
_HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info(sys.argv[1])
held = torch.empty(max(0, free - int(sys.argv[2]) * 2**20), dtype=torch.uint8, device=sys.argv[1])
print(held.numel(), flush=True)
sys.stdin.read()
"""


def run(setting: Setting, report: Report) -> None:
    quick = setting.small
    report.case("kill -9 of the worker", 0 if quick else 45, lambda: killed(setting, report))
    report.case("out of memory, the worker alone", 0 if quick else 10, lambda: short_of_memory(setting))
    if setting.on_gpu:
        report.case("out of memory, the whole run", 35, lambda: run_short_of_memory(setting, report))
        report.case("no memory for the model", 25, lambda: without_memory(setting, report))


def killed(setting: Setting, report: Report) -> dict[str, Any]:
    path, table = whole.job_file(setting, f"killed-{os.getpid()}", whole.model_of(setting, "ViT-L-14"))
    if setting.small:
        os.environ["CLIPMILL_STUB_SLEEP_MS"] = "100"  # of this step's process alone
    start = time.monotonic()
    process = whole.start("embed", str(path), "--json")
    worker = _worker_at_work(process, table, report.left_s)
    if worker is not None:
        worker.kill()
    killed_s = round(time.monotonic() - start, 1)
    found = whole.outcome(whole.ended(process, report.left_s))
    found |= {
        "killed_after_s": killed_s if worker is not None else None,
        "seconds_in_all": round(time.monotonic() - start, 1),
    }
    found["every_sample_once"] = found.get("seen") == setting.sizes.shards * setting.sizes.per_shard
    found["verify"] = whole.verified(table, report.left_s)
    return found


def _worker_at_work(process: "subprocess.Popen[str]", table: str, timeout_s: float) -> Any:
    """The actor's process, half a second after the table was made, which is when units are handed out; None where the
    run ended before."""
    ends = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < ends:
        if Path(f"{table}.lance", "_versions").exists():
            time.sleep(_INTO_A_BATCH_S)
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if (child.cmdline() or [""])[0].startswith("ray::EmbedWorker"):
                        return child
        time.sleep(0.05)
    return None


def short_of_memory(setting: Setting) -> dict[str, Any]:
    """One worker's loop, whose process may take no more than its model and a little: every sample is embedded, in
    smaller batches."""
    case = roads.Case(label="", model="ViT-L-14")
    batch = 64 if setting.small else 1000
    job = roads.job_of(case, setting, batch_size=batch)
    if setting.small:
        job = job.model_copy(update={"model": job.model.model_copy(update={"name": "stub", "precision": "auto"})})
    with roads.road_of(job, setting) as road:
        limit(setting)
        receipts = road.run(road.units[:2])
        return {
            "batch_size": batch,
            "batch_size_at_the_end": road.engine.batch_size,
            "seen": sum(receipt.seen for receipt in receipts),
            "written": sum(receipt.written for receipt in receipts),
        }


def limit(setting: Setting) -> None:
    """This process may take 1 GB more of the device's memory. A CPU has none of its own: there the stub runs short."""
    os.environ["CLIPMILL_STUB_OOM_ABOVE"] = "2"
    if setting.on_gpu:
        import torch

        torch.cuda.empty_cache()
        device = torch.device(setting.device)
        total = torch.cuda.get_device_properties(device).total_memory
        most = torch.cuda.memory_reserved(device) + 2**30
        torch.cuda.set_per_process_memory_fraction(most / total, device)


class Held:
    """Another process holds the device's memory but for `keep_mb`."""

    def __init__(self, setting: Setting, keep_mb: int) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", _HOLD, setting.device, str(keep_mb)]
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> int:
        """The bytes held."""
        return int(self._process.stdout.readline())

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()


def run_short_of_memory(setting: Setting, report: Report) -> dict[str, Any]:
    one = setting.folder / "one-large-tar"
    one.mkdir(exist_ok=True)
    drawn.joined(sorted(setting.tars.glob("*.tar"))[:4], one / "0.tar")
    path, table = whole.job_file(
        setting,
        f"short-{os.getpid()}",
        setting.model("ViT-B-32"),
        source={"format": "webdataset", "uri": f"{one}/*.tar"},
        workers={"num": 1, "gpus": 1, "batch_size": 4 * setting.sizes.per_shard},
    )
    with Held(setting, KEEP_FOR_A_MODEL_MB):
        found = whole.outcome(whole.command("embed", str(path), "--json", timeout_s=report.left_s))
    shutil.rmtree(one)
    return found | {"verify": whole.verified(table, report.left_s)}


def without_memory(setting: Setting, report: Report) -> dict[str, Any]:
    path, _ = whole.job_file(setting, f"none-{os.getpid()}", setting.model("ViT-B-32"))
    with Held(setting, KEEP_FOR_NOTHING_MB):
        said = whole.command("embed", str(path), "--json", timeout_s=report.left_s)
    return {"exit_code": said.exit_code, "seconds": round(said.seconds, 1), "said": said.last_lines()}
