"""The benchmarks' own arithmetic and files; what they measure is looked at elsewhere."""

import argparse
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import decode, machine, pictures, start
from benchmarks.peers import compare
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.peers.tools import HERE, OURS, TOOLS
from benchmarks.process import watch
from benchmarks.stages import alone, operations, peak, summary
from tests.models import encoded, picture


def figures(rate: float, *, samples: int = 100, startup_s: float = 2.0) -> dict[str, float]:
    return {
        "samples": samples,
        "samples_per_s": rate,
        "startup_s": startup_s,
        "peak_rss_mb": rate,
        "cpu_ms": 2000 / rate,
    }


def test_ratios_are_taken_within_a_round_and_their_median_is_quoted():
    rounds = [
        {OURS: figures(40), "slow": figures(4)},
        {OURS: figures(20), "slow": figures(4)},  # the machine was busy for both: only the pair says anything
        {OURS: figures(60), "slow": figures(5)},
        {"slow": figures(1000)},  # without ours: no pair
        {OURS: figures(30)},
    ]
    found = compare.summarise(rounds, OURS)
    assert found["slow"]["ours_over_it"] == {"median": 10.0, "min": 5.0, "max": 12.0}
    assert (found["slow"]["rounds"], found["slow"]["median_samples_per_s"]) == (3, 4.5)
    assert "ours_over_it" not in found[OURS]
    assert found["slow"]["its_cpu_over_ours"] == {"median": 10.0, "min": 5.0, "max": 12.0}
    assert "| slow | 4.5 | 10.0× (5.0 to 12.0) |" in compare.as_markdown(found, {})


def test_cosines_pair_samples_by_key_and_see_one_wrong_vector():
    drawn = np.random.default_rng(0).normal(size=(5, 8))
    mine = {"keys": np.array(list("abcde")), "images": drawn, "texts": drawn}
    theirs = {"keys": np.array(list("dca")), "images": 3 * drawn[[3, 2, 0]], "texts": drawn[[3, 2, 1]]}
    found = compare.cosines(mine, theirs)
    assert (found["samples"], found["images"]["min"], found["texts"]["median"]) == (3, 1.0, 1.0)
    assert found["texts"]["min"] < 0.9
    assert abs(found["images"]["apart"]) < 0.9
    with pytest.raises(KeyError):
        compare.cosines(mine, {**theirs, "keys": np.array(list("dcz"))})


def test_the_bound_adds_up_what_shares_the_cores_and_keeps_the_wire_apart():
    one = {stage: {"samples_per_s": 1e9, "cpu_ms_per_sample": 5.0} for stage in alone.STAGES}
    assert summary.bound(one, cores=3) == pytest.approx(100.0)
    assert summary.bound(one, cores=3, server_cpu_ms=30.0) == pytest.approx(50.0)
    one["read"]["samples_per_s"] = 20.0
    assert summary.bound(one, cores=3) == 20.0


def test_a_tower_is_stated_as_a_share_of_what_one_core_multiplies_in_its_precision():
    tower = {"samples_per_s": 1.0, "cpu_ms_per_sample": 20.0, "gflop_per_sample": 4.0}  # 200 GOP/s
    other = {**tower, "cpu_ms_per_sample": 10.0}
    limits = {"fp32": {"one_core_gops": 100.0, "all_cores_gops": 180.0}, "bf16": {"one_core_gops": 250.0}}
    rounds = [
        {"peak": limits, "stages": {"precision": "bf16", "image tower": tower, "text tower": other}},
        {"stages": {}},  # of before the peak was measured
    ]
    found = summary.matrix_peak(rounds)
    assert found["towers"]["image tower"]["share_of_one_core"]["median"] == 0.8
    assert found["towers"]["text tower"]["share_of_one_core"]["all"] == [1.6]
    assert found["matrix_peak"]["fp32"]["all_cores_gops"] == 180.0
    assert summary.matrix_peak(rounds[1:]) == {}


def test_the_peak_is_of_every_precision_that_torch_has_an_operator_for(monkeypatch):
    def absent(side: int) -> peak.Product:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(peak, "_int8", absent)
    found = peak.peaks(cores=2, side=64)
    assert "int8" not in found
    assert found["fp32"]["one_core_gops"] > 0 < found["fp32"]["all_cores_gops"]


def test_operations_are_counted_where_they_are_done():
    x = torch.ones(5, 8)
    assert operations.counted(lambda: torch.nn.functional.linear(x, torch.ones(3, 8))) == 2 * 5 * 8 * 3
    half = x.to(torch.bfloat16)
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(3, 8, dtype=torch.bfloat16), 5)
    linear = torch.ops.mkldnn._linear_pointwise
    with torch.inference_mode():
        assert operations.counted(lambda: linear(half, packed, None, "none", [], "")) == 2 * 5 * 8 * 3


def test_the_share_of_the_bound_is_of_the_same_round():
    def round_of(cpu_ms: float, rate: float) -> dict[str, object]:
        by_stage = {stage: {"samples_per_s": 1e9, "cpu_ms_per_sample": cpu_ms} for stage in alone.STAGES}
        job = {"samples_per_s": rate, "server_cpu_ms_per_sample": 0.0, "first_rows_s": 9.0, "startup_s": 5.0}
        job["cpu_ms_per_sample"] = 8 * cpu_ms
        return {"stages": by_stage, "job": job}

    rounds = [round_of(5.0, 60.0), round_of(10.0, 30.0), round_of(20.0, 12.0)]
    found = summary.summarise(rounds, cores=2)
    assert found["share_of_bound"] == {"median": 0.9, "all": [0.9, 0.9, 0.72]}
    assert found["stages_share_of_job_cpu"]["median"] == 0.75  # six stages
    assert found["stages"]["decode"]["cpu_ms_per_sample"] == 10.0


def some_photos(folder: Path) -> list[Path]:
    paths = [folder / f"{seed}.jpg" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encoded(picture(seed, width=500, height=400)))
    return paths


def test_shards_hold_pairs_of_the_asked_size_no_two_alike_and_are_made_once(tmp_path):
    kind = pictures.Kind(shortest_px=64, target_bytes=2000, samples_per_shard=4)
    photos = some_photos(tmp_path)
    facts = pictures.make_shards(tmp_path / "s", 10, kind, photos)
    tars = sorted((tmp_path / "s").glob("*.tar"))
    assert (facts["count"], len(tars)) == (10, 3)
    assert pictures.shards(tmp_path / "s", 5, kind) == tars[:2]
    seen = set()
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                data = archive.extractfile(member).read()
                assert data not in seen
                seen.add(data)
                if member.name.endswith(".jpg"):
                    with Image.open(archive.extractfile(member)) as opened:
                        assert min(opened.size) == 64
                else:
                    assert 5 <= len(data.split()) <= 24
    assert len(seen) == 20
    before = tars[0].stat().st_mtime_ns
    assert pictures.make_shards(tmp_path / "s", 10, kind, photos) == facts
    assert tars[0].stat().st_mtime_ns == before


def test_every_tool_has_a_script_and_pinned_packages():
    for tool in TOOLS.values():
        assert (HERE / tool.script).is_file()
        packages = ENVIRONMENTS[tool.environment].packages
        assert packages is None or all("==" in p or p == "setuptools<70" for p in packages)


def test_a_watched_process_tells_its_time_and_the_memory_of_its_children(tmp_path):
    child = "import time; held = bytearray(120_000_000); time.sleep(2)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    done = watch([sys.executable, "-c", code], env={}, cwd=tmp_path, timeout_s=60)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.seconds >= 2
    assert done.peak_rss_bytes > 120_000_000
    start, end = done.cpu_times[0][0], done.cpu_times[-1][0]
    assert 0 <= done.cpu_s(start, end) < 2 * done.seconds
    assert done.cpu_s(end, end) == 0
    late = watch([sys.executable, "-c", "import time; time.sleep(60)"], env={}, cwd=tmp_path, timeout_s=0.5)
    assert late.returncode < 0


@pytest.mark.parametrize(("case", "found"), [("embed", [True, True]), ("embed, first", [False, False])])
def test_a_first_start_finds_nothing_of_earlier_ones_in_the_cache(tmp_path, case, found):
    """Nor does any start write into the cache of who measures."""
    build = tmp_path / "clipmill"
    build.write_text(
        '#!/bin/sh\n[ -e "$XDG_CACHE_HOME/kept" ] && kept=true || kept=false\nmkdir -p "$XDG_CACHE_HOME"\n'
        'touch "$XDG_CACHE_HOME/kept"\nsleep 0.05\necho "{\\"first_rows_s\\": 1, \\"kept\\": $kept, \\"rows\\": 2}"\n'
    )
    build.chmod(0o755)
    answers: list[bool] = []

    def measured(*args, **kwargs):
        one = real(*args, **kwargs) | {"cpu_s": 1.0}
        answers.append(one["answer"]["kept"])
        return one

    real = start.measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "measured", measured)
        result = start.compare(case, [], {"before": build, "now": build}, tmp_path, rounds=1)
    assert result["same_answer"]
    assert answers[2:] == found


def test_results_go_into_a_dated_file_that_names_the_machine(tmp_path):
    path = machine.dated(tmp_path / "results", "peers")
    machine.save(path, {"machine": machine.machine(), "at": machine.now()})
    assert path.name.startswith("20")
    found = machine.load(path)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["torch"] != "absent"


def test_every_stage_is_measured_alone_over_a_store(tmp_path, s3):
    kind = pictures.Kind(shortest_px=64, target_bytes=2000, samples_per_shard=6)
    pictures.make_shards(tmp_path / "s", 12, kind, some_photos(tmp_path))
    s3.upload(tmp_path / "s", "shards/")
    options = argparse.Namespace(
        model="clipmill-tiny", pretrained=None, endpoint=s3.endpoint, bucket=s3.bucket, threads=2
    )
    found = alone.stages(options)
    assert found.pop("precision") in ("fp32", "bf16")
    # clipmill-tiny is small, and its last block computes one token.
    assert 0.001 < found["text tower"]["gflop_per_sample"] < found["image tower"]["gflop_per_sample"] < 1
    assert set(found) == set(alone.STAGES)
    for stage in found.values():
        assert stage["samples_per_s"] > 0
        assert stage["cpu_ms_per_sample"] > 0
    assert summary.bound(found, cores=2) <= found["read"]["samples_per_s"]


def test_what_scaling_while_decoding_costs_and_drifts_is_measured_against_pillow(tmp_path, monkeypatch, capsys):
    (tmp_path / "clothing").mkdir()
    some_photos(tmp_path / "clothing")
    monkeypatch.setenv("CLIPMILL_TEST_DATA", str(tmp_path))
    # Pictures are not scaled for a model as small as this one; what is tested is that the benchmark sees scaling.
    monkeypatch.setattr("clipmill.workers.decode.jpeg.MIN_TARGET_PX", 1)
    threads = torch.get_num_threads()
    try:
        assert decode.main(["--pictures", "2", "--models", "clipmill-tiny", "--out", str(tmp_path / "results")]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)["cases"]["clipmill-tiny"]
    small, large = found["256 px"], found["1920 px"]
    assert (small["pictures"], large["pictures"]) == (2, 2)
    assert large["worker"]["ms"] < large["full size"]["ms"]
    assert 0.98 < large["worker"]["cosine"]["min"] <= large["full size"]["cosine"]["min"] <= 1.00001
    assert large["worker"]["levels"] > large["full size"]["levels"]
    assert len(list((tmp_path / "results").glob("*-decode.json"))) == 1
