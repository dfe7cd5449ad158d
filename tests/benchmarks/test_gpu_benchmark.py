"""`python -m benchmarks.gpu` on a CPU: every step runs, and one that fails, hangs or dies costs nothing but itself."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import machine
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import drawn
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Running, Step
from benchmarks.gpu.targets import targets
from benchmarks.pictures import Kind
from tests.benchmarks import bad_steps

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_road_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--price-per-hour", "2.5"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    steps: dict[str, Any] = result["steps"]
    assert list(steps) == [step.name for step in gpu.STEPS]
    assert not [name for step in steps.values() for name, case in step.items() if "skipped" in str(case)]
    (saved,) = tmp_path.glob("*-gpu-code-on-cpu.json")
    assert machine.load(saved) == result
    road = steps["targets"]["L/14"]
    assert road["samples_per_s"] > 0
    assert road["limited_by"] in ("read", "decode", "embed", "tag", "write")
    assert road["share_of_matmul_peak"] > 0
    assert road["plan"]["samples_per_s"] > 0
    for precision in ("bf16", "fp16"):
        tiny = steps["parity"]["clipmill-tiny"][precision]
        assert min(tiny["images"]["least_centred"], tiny["texts"]["least_centred"], tiny["self_check"]) > 0.999
        assert tiny["images"]["apart"] < 0.5  # so that a cosine near 1 says something
    assert steps["variants"]["ViT-L-14, fused QKV and GELU"]["cosine"]["least_centred"] > 0.999
    embedded = steps["embed"]["embed ViT-L-14"]
    assert (embedded["exit_code"], embedded["seen"], embedded["rows"]) == (0, 32, 32)
    assert embedded["verify"]["problems"] == []
    killed = steps["failures"]["kill -9 of the worker"]
    assert (killed["exit_code"], killed["rows"], killed["every_sample_once"]) == (0, 32, True)
    assert killed["worker_restarts"] == 1
    assert killed["verify"]["problems"] == []
    short = steps["failures"]["out of memory, the worker alone"]
    assert short["written"] == short["seen"] == 16
    index = steps["index"]["16 partitions"]
    assert index["cpu"]["mean_cosine"] == pytest.approx(index["card"]["mean_cosine"], abs=0.01)
    assert index["placed_elsewhere"] < 0.01
    assert steps["index"]["build"]["computed_on"] == {"cpu": "cpu", "card": "card"}
    assert result["targets"]["dollars per million images"]["L/14"] > 0


def test_without_a_gpu_it_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["--folder", str(tmp_path)]) == 2
    said = "error: torch sees no GPU here; --device cpu --small tries the code without one\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_hangs_or_dies_leaves_what_it_found_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    running = Running({"steps": {}}, tmp_path / "result.json", preloaded=(), grace_s=0.0)
    steps = [
        Step(name="hangs", run=bad_steps.hangs, most_s=0.5),
        Step(name="dies", run=bad_steps.dies, most_s=60.0),
        Step(name="raises", run=bad_steps.raises, most_s=60.0),
        Step(name="works", run=bad_steps.works, most_s=60.0),
        Step(name="too late", run=bad_steps.works, most_s=1e9, least_s=1e9),
    ]
    running.all(steps, Setting(device="cpu", folder=tmp_path, threads=1), total_s=300.0)
    found = machine.load(tmp_path / "result.json")["steps"]
    assert found["hangs"]["error"] == "stopped after its 0.5 s"
    assert found["dies"]["before"]["value"] == 5
    assert "ended with" in found["dies"]["error"]
    assert found["raises"]["error"] == "ValueError: no such thing"
    assert (found["works"]["first"]["value"], found["works"]["last"]["value"]) == (1, 3)
    assert found["works"]["wrong"]["error"].startswith("ZeroDivisionError")
    assert "takes some 1000000 s" in found["works"]["long"]["skipped"]
    assert "were left" in found["too late"]["skipped"]


def test_drawn_pictures_are_of_the_asked_size_and_no_two_alike(tmp_path: Path) -> None:
    kind = Kind(shortest_px=64, target_bytes=3000, samples_per_shard=4)
    for shard in range(2):
        drawn._draw_tar(tmp_path, kind, shard)
    both = drawn.joined(sorted(tmp_path.glob("0*.tar")), tmp_path / "both.tar")
    seen = set()
    with tarfile.open(both) as archive:
        for member in archive:
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            seen.add(data)
            if member.name.endswith(".jpg"):
                with Image.open(io.BytesIO(data)) as opened:
                    assert min(opened.size) == 64
                assert 1000 < len(data) < 9000
    assert len(seen) == 16


def test_targets_are_told_from_a_result_and_what_was_not_measured_is_none() -> None:
    large = {
        "samples_per_s": 2500.0,
        "share_of_matmul_peak": 0.51,
        "gpu_busy_percent": 80.0,
        "reached_over_plan": 8.0,
    }
    small = {"samples_per_s": 9000.0, "decode_alone_per_s": 9900.0, "reached_over_plan": 1.1}
    one = {"images": {"least": 0.9995}, "texts": {"least": 0.998}}
    parity = {"RN50": {"bf16": one, "fp16": one}, "took_s": 3.0, "L": {"error": "x"}}
    found = targets({"steps": {"targets": {"L/14": large, "B/32": small}, "parity": parity}}, 3.6)
    assert found["L/14, images/s"]["ok"]
    assert not found["L/14, GPU busy in percent"]["ok"]
    assert found["least cosine"] == {"least": 0.999, "reached": 0.998, "ok": False}
    assert found["B/32, images/s, or 0.9 of decoding"] == {"least": 8910.0, "reached": 9000.0, "ok": True}
    assert (found["L/14, plan off by"]["ok"], found["B/32, plan off by"]["ok"]) == (False, True)
    assert found["dollars per million images"]["L/14"] == pytest.approx(0.4)
    assert targets({"steps": {}}, None)["L/14, images/s"]["ok"] is None
