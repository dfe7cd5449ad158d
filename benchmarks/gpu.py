"""What a GPU does with clipmill's worker: pictures/s, share of the measured matmul peak, how busy, and what limits.

    python -m benchmarks.gpu --folder DIR [--models B/32 L/14 ...] [--seconds 60] [--out benchmarks/results]

Local tars of JPEGs of 256 px and of 1920 px, through the worker's own loop into Lance fragments on the local disk, one
process, without Ray: what a cluster adds is measured by `benchmarks.scale`. Weights are random, which changes no
speed. `--device cpu` runs the same code where there is no GPU; its figures mean nothing, but that it runs.

H and W are pixels; flops are floating-point operations, two per multiply-add, of the whole model as open_clip computes
it: what clipmill leaves out (all but one token of the last block, 3 % of an L/14 and 7 % of a B/32) counts as done.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, and whether captions are embedded beside the pictures."""

    label: str
    model: str
    captions: bool = False


CASES = {
    c.label: c
    for c in (
        Case(label="B/32", model="ViT-B-32"),
        Case(label="B/32 with captions", model="ViT-B-32", captions=True),
        Case(label="L/14", model="ViT-L-14"),
        Case(label="SO400M", model="so400m"),
        Case(label="tiny", model="clipmill-tiny", captions=True),
    )
}
# The picture tower of open_clip's ViT-SO400M-14-SigLIP beside a small text tower with open_clip's own tokenizer:
# SigLIP's needs a file from the network.
SO400M = {
    "model_cfg": {
        "embed_dim": 1152,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_so400m_patch14_siglip_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}
KINDS = {
    "256 px": pictures.Kind(samples_per_shard=1000),
    "1920 px": pictures.Kind(shortest_px=1920, target_bytes=1_000_000, samples_per_shard=250, seed=2),
}
WARM_UP_UNITS = 2


def matmul_flops_per_s(device: str, size: int = 8192) -> float:
    """The best bf16 matrix product of ten, after three to warm up."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times_s = []
    for _ in range(13):
        start = time.perf_counter()
        torch.matmul(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start)
    return float(2 * size**3 / min(times_s[3:]))


class BusyGpu:
    """nvidia-smi's utilisation while the block runs: the share of time in which some kernel ran; None without it."""

    def __init__(self, device: str) -> None:
        self.readings: list[float] = []
        self._wanted = device != "cpu" and shutil.which("nvidia-smi") is not None
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "BusyGpu":
        if self._wanted:
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
            self._process = subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._thread.join()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.readings.append(float(line))

    @property
    def percent(self) -> float | None:
        return round(sum(self.readings) / len(self.readings), 1) if self.readings else None


def run_case(case: Case, kind: str, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Units one after the other until `seconds` have passed, the first ones not counted."""
    from benchmarks.road import Road
    from clipmill.jobs.planning.arithmetic import model_cost
    from clipmill.jobs.planning.estimate import flops_per_sample
    from clipmill.jobs.running.summary import StageClock
    from clipmill.schemas.config import JobFile

    shards = options.folder / f"shards-{kind.replace(' ', '')}"
    job = JobFile.model_validate(
        {
            "table": str(options.folder / f"db-{os.getpid()}" / f"t{time.monotonic_ns()}"),
            "source": {
                "format": "webdataset",
                "uri": f"{shards}/*.tar",
                "caption": "txt" if case.captions else None,
            },
            "model": {"name": _model_name(case, options.folder), "pretrained": _pretrained(case)},
            "workers": {"units_in_flight": 3},
        }
    )
    road = Road.build(job, device=options.device, threads=options.threads)
    road.run(road.units[:WARM_UP_UNITS])
    clock = StageClock(threads=options.threads, units_in_flight=job.workers.units_in_flight)
    seen, start = 0, time.monotonic()
    with BusyGpu(options.device) as busy:
        while time.monotonic() - start < options.seconds:
            for receipt in road.run(road.units):  # again and again: fragments are never committed
                clock.add(receipt)
                seen += receipt.seen
    elapsed_s = time.monotonic() - start
    cost = model_cost(job.model.name)
    assert cost is not None, job.model.name
    flops = flops_per_sample(cost, captions=case.captions)
    loads = clock.loads(elapsed_s)
    rate = seen / elapsed_s
    return {
        "model": case.model,
        "captions": case.captions,
        "tars": kind,
        "samples_per_s": round(rate, 1),
        "batch_size": road.engine.batch_size,
        "gflops_per_sample": round(flops / 1e9, 2),
        "share_of_matmul_peak": round(rate * flops / peak, 3),
        "gpu_busy_percent": busy.percent,
        "stage_loads": {stage: round(load, 3) for stage, load in loads.items()},
        "limited_by": clock.limited_by(elapsed_s),
        "startup_s": round(road.startup_s, 1),
        "seconds": round(elapsed_s, 1),
    }


def _model_name(case: Case, folder: Path) -> str:
    """`so400m` becomes a model folder with random weights, made once."""
    if case.model != "so400m":
        return case.model
    home = folder / "so400m"
    if not (home / "model.safetensors").exists():
        import open_clip
        from safetensors.torch import save_file

        home.mkdir(parents=True, exist_ok=True)
        (home / "open_clip_config.json").write_text(json.dumps(SO400M))
        settings: dict[str, Any] = {k: v for k, v in SO400M["model_cfg"].items() if k != "custom_text"}
        save_file(open_clip.CustomTextCLIP(**settings).state_dict(), home / "model.safetensors")
    return str(home)


def _pretrained(case: Case) -> str | None:
    return None if case.model in ("so400m", "clipmill-tiny") else "random"


def make_sources(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    facts = {}
    for name, kind in KINDS.items():
        shards = options.shards_256 if name == "256 px" else options.shards_1920
        if shards:
            kind = replace(kind, samples_per_shard=options.samples_per_shard or kind.samples_per_shard)
            count = shards * kind.samples_per_shard
            facts[name] = pictures.make_shards(options.folder / f"shards-{name.replace(' ', '')}", count, kind)
    return facts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the shards")
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=[c for c in CASES if c != "tiny"])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the code")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for decoding")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each model and kind of tar")
    parser.add_argument("--shards-256", type=int, default=12, help="tars of 256 px pictures, 1000 each")
    parser.add_argument("--shards-1920", type=int, default=4, help="tars of 1920 px pictures, 250 each")
    parser.add_argument("--samples-per-shard", type=int, help="instead of 1000 and 250")
    parser.add_argument("--matmul", type=int, default=8192, help="side of the matrices whose product is the peak")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    options = parser.parse_args(arguments)
    import torch

    if options.device != "cpu" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu tries the code without one", file=sys.stderr)
        return 2
    options.folder = options.folder.resolve()
    sources = make_sources(options)
    peak = matmul_flops_per_s(options.device, options.matmul)
    result: dict[str, Any] = {
        "at": machine.now(),
        "machine": {**machine.machine(), "device": _device_name(options.device), "threads": options.threads},
        "matmul_bf16_tflops": round(peak / 1e12, 2),
        "sources": sources,
        "cases": [],
    }
    for label in options.models:
        for kind in sources:
            one = run_case(CASES[label], kind, options, peak)
            result["cases"].append({"case": label, **one})
            print(json.dumps(result["cases"][-1]), file=sys.stderr)
            shutil.rmtree(options.folder / f"db-{os.getpid()}", ignore_errors=True)
    print(json.dumps(result, indent=1))
    if options.out:
        machine.save(machine.dated(options.out, "gpu" if options.device != "cpu" else "gpu-code-on-cpu"), result)
    return 0


def _device_name(device: str) -> str:
    import torch

    return "cpu" if device == "cpu" else str(torch.cuda.get_device_name(device))


if __name__ == "__main__":
    sys.exit(main())
