"""The tools that are compared, how each is set up, and one run of one of them."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.clock import Given, report_of
from benchmarks.process import watch

HERE = Path(__file__).parent
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`script` beside this file, run in the environment of that name. `options` are the best of those tried."""

    name: str
    script: str
    environment: str
    batch_size: int = 32
    options: dict[str, Any] = field(default_factory=dict)


TOOLS = {
    t.name: t
    for t in (
        Tool(name="clipmill", script="run_clipmill.py", environment="clipmill"),
        Tool(
            name="clip-retrieval",
            script="run_clip_retrieval.py",
            environment="clip-retrieval",
            options={"num_prepro_workers": 2},
        ),
        Tool(
            name="DataLoader script",
            script="run_dataloader.py",
            environment="dataloader",
            options={"num_workers": 2, "autocast": False},
        ),
        Tool(
            name="DataLoader script, bf16 autocast",
            script="run_dataloader.py",
            environment="dataloader",
            options={"num_workers": 2, "autocast": True},
        ),
        Tool(
            name="Ray Data",
            script="run_ray_data.py",
            environment="ray-data",
            options={"threads": 2, "stages": "one"},
        ),
        Tool(name="Daft", script="run_daft.py", environment="daft", options={"dim": 512}),
        Tool(name="LanceDB function", script="run_lancedb.py", environment="lancedb"),
    )
}
OURS = "clipmill"


class Failed(Exception):
    """A tool did not finish; the text is the end of what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`seconds` from ready to done; `startup_s` from the start of the process to ready."""

    tool: str
    samples: int
    seconds: float
    startup_s: float
    peak_rss_mb: float
    cpu_s: float  # of the whole process tree, from ready to done

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds


def run_tool(tool: Tool, python: str, given: Given) -> Outcome:
    """One whole run in a process of its own; its vectors are then at `given.out`/vectors.npz. Raises Failed."""
    out = Path(given.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "given.json").write_text(json.dumps(asdict(given)))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"DO_NOT_TRACK": "1", "RAY_raylet_start_wait_time_s": "180"}
    env["PYTHONPATH"] = str(HERE)  # Daft runs its function in a process of its own
    command = [python, str(HERE / tool.script), str(out / "given.json")]
    done = watch(command, env=env, cwd=out, timeout_s=TIMEOUT_S)
    if done.returncode:
        raise Failed(f"exit {done.returncode}: {done.stderr.strip()[-1500:]}")
    said = json.loads(report_of(given).read_text())
    if said["samples"] != given.samples:
        raise Failed(f"{said['samples']} samples came out of {given.samples}")
    return Outcome(
        tool=tool.name,
        samples=said["samples"],
        seconds=round(said["done_at"] - said["ready_at"], 3),
        startup_s=round(said["ready_at"] - done.started_at, 3),
        peak_rss_mb=round(done.peak_rss_bytes / 1e6),
        cpu_s=round(done.cpu_s(said["ready_at"], said["done_at"]), 2),
    )
