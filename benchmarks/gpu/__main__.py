"""What a GPU does with clipmill, in under eight minutes: no network, no pictures of yours; it draws its own.

    python -m benchmarks.gpu [--out benchmarks/results] [--minutes 8] [--steps targets parity ...]

Steps in the order of their worth, each with seconds of its own; what no longer fits is skipped, what fails says why,
and the result is saved after every case. `--device cpu --small` runs all of it in a minute where there is no GPU; its
figures mean nothing, but that it runs. docs/gpu.md says how to read the result.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu import decoding, failures, indexing, meters, parity, roads, variants, whole
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Running, Step
from benchmarks.gpu.targets import targets

STEPS = (
    Step(name="prepare", run=roads.prepare, most_s=50),
    Step(name="targets", run=roads.targets, most_s=100),
    Step(name="parity", run=parity.run, most_s=80),
    Step(name="embed", run=whole.run, most_s=80),
    Step(name="roads", run=roads.others, most_s=100),
    Step(name="decode", run=decoding.run, most_s=20),
    Step(name="variants", run=variants.run, most_s=130),
    Step(name="failures", run=failures.run, most_s=120),
    Step(name="index", run=indexing.run, most_s=75),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the code")
    parser.add_argument("--small", action="store_true", help="a tiny model and few pictures, to try the code")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all steps")
    parser.add_argument(
        "--steps", nargs="+", choices=[step.name for step in STEPS], help="only these; prepare is there"
    )
    parser.add_argument("--folder", type=Path, help="keeps pictures and models; default: a temporary one")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for decoding")
    parser.add_argument("--price-per-hour", type=float, help="of this machine; for dollars per million images")
    parser.add_argument("--out", type=Path, help="folder for the dated result, saved after each case")
    options = parser.parse_args(arguments)
    if options.device == "cuda":
        options.device = "cuda:0"  # some of torch wants a number
    import torch

    if options.device != "cpu" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu --small tries the code without one", file=sys.stderr)
        return 2
    folder = options.folder.resolve() if options.folder else Path(tempfile.mkdtemp(prefix="clipmill-gpu-"))
    setting = Setting(device=options.device, folder=folder, threads=options.threads, small=options.small)
    setting.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    path = machine.dated(options.out.resolve(), "gpu" if setting.on_gpu else "gpu-code-on-cpu") if options.out else None
    running = Running(
        {
            "at": machine.now(),
            "machine": {
                **machine.machine(("torch", "torchvision", "open_clip_torch", "ray", "pylance", "simplejpeg")),
                "device": _device_name(options.device),
                "threads": options.threads,
            },
            "small": options.small,
            "steps": {},
        },
        path,
    )
    wanted = options.steps or [step.name for step in STEPS]
    try:
        running.all([s for s in STEPS if s.name in wanted or s.name == "prepare"], setting, 60 * options.minutes)
    finally:
        running.result["seconds"] = round(time.monotonic() - start, 1)
        running.result["targets"] = targets(running.result, options.price_per_hour)
        running.save()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(running.result, indent=1))
    return 1 if any(_failed(step) for step in running.result["steps"].values()) else 0


def _device_name(device: str) -> str:
    """nvidia-smi is not asked: torch's name is the one in fingerprints. This process never computes on the device."""
    return meters.device_name(device)


def _failed(step: dict[str, Any]) -> bool:
    return "error" in step or any("error" in case for case in step.values() if isinstance(case, dict))


if __name__ == "__main__":
    sys.exit(main())
