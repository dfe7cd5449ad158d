"""How fast a run will be, with the source of every figure: this table's last run, or arithmetic.

`measure` gives a third, a measured sample, for whoever asks. A worker is one GPU with its share of the cores, or a node
without one.
"""

import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill.jobs.planning.arithmetic import ModelCost, model_cost
from clipmill.schemas.installed import has_gpu
from clipmill.schemas.job.config import JobFile

if TYPE_CHECKING:
    from clipmill.jobs.table.tables import Tables

# Operations per second that a whole job reaches, not the device's peak.
# GPU: clip-retrieval's docs/distributed_clip_inference.md has 312 ViT-L/14 pictures a second per A100 (162 GFLOP each).
# clipmill itself has been measured on no GPU; the figure is another program's, and so is meant to be on the safe side.
GPU_FLOPS = 312 * 162e9
GPU_SOURCE = "arithmetic, from 312 ViT-L/14 pictures/s per A100 in clip-retrieval's documentation; not measured here"
# A core, by what the processor multiplies itself: docs/speed.md, jobs with ViT-B/32 and captions on two idle cores.
CORE_FLOPS = {"amx_bf16": 0.6e12, "avx512_bf16": 0.4e12, "fp32": 0.1e12}
# What a JPEG of 256 px and its caption take of a core around the towers; same page.
DECODE_CORE_S = 0.0009
GPU_CORES = 8.0  # beside a GPU, where nothing else is known
CAPTION_TOKENS = 20  # of a web caption, where a batch is cut to its longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What one worker has. `gpus` 0: it computes on its cores."""

    gpus: float
    cores: float

    @staticmethod
    def of(job: JobFile) -> "Worker":
        """As the job asks; where it says auto, a GPU with eight cores if this machine has one or the job a price for
        it, else the cores of this machine."""
        gpus: float = job.workers.gpus if job.workers.gpus != "auto" else 1.0 if _means_gpus(job) else 0.0
        cores = job.workers.cpus
        if cores == "auto":
            cores = GPU_CORES if gpus else float(os.cpu_count() or 1)
        return Worker(gpus=gpus, cores=cores)

    @staticmethod
    def here(*, gpu: bool) -> "Worker":
        """This machine as one worker; `gpu`: a GPU with eight cores, also where it has none."""
        if gpu or has_gpu():
            return Worker(gpus=1.0, cores=GPU_CORES)
        return Worker(gpus=0.0, cores=float(os.cpu_count() or 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`samples_per_s` of one worker with `gpus`. `basis` says, for a person, where the figure comes from."""

    samples_per_s: float
    gpus: float
    limited_by: str
    basis: str


def estimate(job: JobFile, tables: "Tables", worker: Worker | None) -> Estimate | None:
    """From the table's last run on such a worker, else by arithmetic; None where neither is possible. `worker` None:
    what the job asks for, which before a cluster is known may be no more than `auto`."""
    if worker is not None:
        return from_last_run(tables, worker) or from_arithmetic(job, worker)
    asked = Worker.of(job)
    is_open = job.workers.gpus == "auto"
    found = from_last_run(tables, asked, any_device=is_open)
    return found or (_either(job, asked) if is_open and not asked.gpus else from_arithmetic(job, asked))


def _either(job: JobFile, here: Worker) -> Estimate | None:
    """For this machine, which has no GPU; `basis` says also what one of a cluster would do."""
    found, other = from_arithmetic(job, here), from_arithmetic(job, Worker(gpus=1.0, cores=GPU_CORES))
    if found is None or other is None:
        return found
    return replace(found, basis=f"{found.basis}. On GPUs {other.samples_per_s:,.0f} samples/s each: {other.basis}")


def _means_gpus(job: JobFile) -> bool:
    """Whether `auto` will find GPUs, as far as can be told without a cluster."""
    return job.plan.price_per_gpu_hour is not None or has_gpu()


def from_last_run(tables: "Tables", worker: Worker, *, any_device: bool = False) -> Estimate | None:
    """The last run of this table that embedded something, on a GPU where this worker has one, else on none, or on
    whatever it was; how many cores or which GPU its workers had is not compared."""
    from clipmill.jobs.table.runs import events_of

    for row in reversed(events_of(tables, ["detail", "run"], "event = 'finished'")):
        run: dict[str, Any] = json.loads(row["detail"])
        on_cpu = run.get("device", "cpu") == "cpu"
        if run.get("samples_per_s") and run.get("seen") and (any_device or on_cpu == (not worker.gpus)):
            worker_s = run.get("worker_s")  # of runs before it was noted, all workers were there all the time
            rate = run["seen"] / worker_s if worker_s else run["samples_per_s"] / max(1, run.get("workers", 1))
            return Estimate(
                samples_per_s=round(rate, 1),
                gpus=0.0 if on_cpu else worker.gpus,
                limited_by=run.get("limited_by", ""),
                basis=f"measured: this table's run {row['run']}",
            )
    return None


def from_arithmetic(job: JobFile, worker: Worker) -> Estimate | None:
    """What the model computes, over what a device gets done; None for a model that `arithmetic` does not know."""
    cost = model_cost(job.model.name)
    if cost is None:
        return None
    flops = flops_per_sample(cost, captions=job.source.caption is not None)
    kind = core_kind(job.model.precision)
    embed_s, decode_s = _seconds(flops, worker, kind)
    if worker.gpus:
        basis = f"{GPU_SOURCE}; {worker.cores:g} cores beside a GPU"
    else:
        basis = (
            f"arithmetic, from idle cores that compute in {kind} (docs/speed.md), as this machine's do; busy ones are "
            f"slower; {worker.cores:g} cores a worker"
        )
    return Estimate(
        samples_per_s=rate(flops, worker, kind),
        gpus=worker.gpus,
        limited_by="embed" if embed_s > decode_s else "decode",
        basis=basis,
    )


def rate(flops: float, worker: Worker, kind: str) -> float:
    """Samples a second of a worker, whose cores compute in `kind` where it has no GPU."""
    embed_s, decode_s = _seconds(flops, worker, kind)
    return round(1 / (max(embed_s, decode_s) if worker.gpus else embed_s + decode_s), 1)  # or they share the cores


def _seconds(flops: float, worker: Worker, kind: str) -> tuple[float, float]:
    """Of a worker, for the towers and for decoding of one sample."""
    device = GPU_FLOPS * worker.gpus if worker.gpus else CORE_FLOPS[kind] * worker.cores
    return flops / device, DECODE_CORE_S / worker.cores


def core_kind(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Which of CORE_FLOPS this machine's cores are; fp32 where the job says so, or where nothing is known."""
    if precision not in ("auto", "bf16"):
        return "fp32"
    with contextlib.suppress(OSError):
        flags = set(cpuinfo.read_text("utf-8", "replace").split())
        return next((kind for kind in CORE_FLOPS if kind in flags), "fp32")
    return "fp32"


def flops_per_sample(cost: ModelCost, *, captions: bool) -> float:
    tokens = (cost.text_tokens or CAPTION_TOKENS) if captions else 0
    return cost.image_flops + tokens * cost.token_flops
