"""The greatest memory of a whole worker: the actor's process, from its start through the units of an `embed`.

    python -m benchmarks.worker_memory --folder DIR [--case ViT-B-32:auto:safetensors] [--out benchmarks/results]

A checkpoint of random weights is written first, by this program, as safetensors or as a .pt file. The job is as the
defaults have it, on this machine's Ray. The kernel's own peak of the actor (VmHWM, which counts pages of mapped files:
the libraries and, as long as they are needed, the weights) and the most anonymous memory that was seen, looked at every
50 ms. torch's build matters: one with CUDA has some 500 MB of library pages, also where there is no GPU.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pictures import make_shards
from clipmill.schemas.model import ModelSpec

CASES = ("ViT-B-32:auto:safetensors", "ViT-B-32:auto:pt", "ViT-B-32:fp32:safetensors", "ViT-L-14:auto:safetensors")
SAMPLES = 96
ACTOR = "ray::EmbedWorker"


def make_model(folder: Path, name: str, kind: str) -> None:
    """A model folder with random weights; what is there already is kept."""
    import torch
    from safetensors.torch import save_file

    from clipmill.workers.clip.load import build_model
    from clipmill.workers.naming import catalog
    from clipmill.workers.naming.names import CONFIG, resolve

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CONFIG).exists():
        return
    resolved = resolve(ModelSpec(name=name, pretrained="random"))
    assert resolved is not None
    weights = build_model(resolved).state_dict()
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    else:
        torch.save(weights, folder / "open_clip_pytorch_model.bin")
    said = {"model_cfg": catalog.config(name), "preprocess_cfg": {}}
    (folder / CONFIG).write_text(json.dumps(said))


def actors(parent: int) -> list[int]:
    """Process ids of the actors that descend from a process."""
    of: dict[int, int] = {}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat, title = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        of[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        if title.startswith(ACTOR.encode()):
            found.append(int(entry.name))
    return [pid for pid in found if parent in _ancestors(pid, of)]


def _ancestors(pid: int, of: dict[int, int]) -> set[int]:
    above: set[int] = set()
    while pid in of and pid not in above:
        above.add(pid)
        pid = of[pid]
    return above


def memory_mb(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    said = {line.partition(":")[0]: line.partition(":")[2] for line in lines}
    return {
        name: int(said[name].split()[0]) * 1024 // 10**6 for name in ("VmHWM", "RssAnon", "RssFile") if name in said
    }


class Peak:
    """The most that was seen of the actors below a process, in MB, by name; `look` is called again and again."""

    def __init__(self) -> None:
        self.mb = dict[str, int]()

    def look(self, parent: int) -> None:
        for pid in actors(parent):
            with contextlib.suppress(OSError):  # ended meanwhile
                for key, value in memory_mb(pid).items():
                    self.mb[key] = max(value, self.mb.get(key, 0))


def measure(folder: Path, case: str) -> dict[str, Any]:
    name, precision, kind = case.split(":")
    model = folder / f"{name}-{kind}"
    made = [sys.executable, "-m", "benchmarks.worker_memory", "--folder", str(folder), "--make", case]
    subprocess.run(made, check=True)
    job = folder / "job.json"
    table = f"{folder}/{time.time_ns()}/images"
    source = {"format": "webdataset", "uri": f"{folder}/pictures/*.tar", "caption": "txt"}
    job.write_text(
        json.dumps({"table": table, "source": source, "model": {"name": str(model), "precision": precision}})
    )
    command = [str(Path(sys.executable).with_name("clipmill")), "embed", str(job), "--json"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
        peak = Peak()
        while process.poll() is None:
            peak.look(process.pid)
            time.sleep(0.05)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"error: {case}: {(folder / 'said').read_text()[-2000:]}")
    rows = json.loads(process.stdout.read())["rows"]
    weights = sum(file.stat().st_size for file in model.glob("open_clip_[mp]*"))
    return {"case": case, "rows": rows, "checkpoint_mb": weights // 10**6, "peak_mb": peak.mb}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints, pictures and tables; kept")
    parser.add_argument("--case", action="append", help=f"model:precision:file; default: {', '.join(CASES)}")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.make:
        name, _, kind = given.make.split(":")
        make_model(folder / f"{name}-{kind}", name, kind)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    make_shards(folder / "pictures", SAMPLES)
    result: dict[str, Any] = {"at": machine.now(), "machine": machine.machine(), "cases": []}
    for case in given.case or CASES:
        result["cases"].append(measure(folder, case))
        print(json.dumps(result["cases"][-1]), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))
    if given.out is not None:
        machine.save(machine.dated(given.out.resolve(), "worker-memory"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
