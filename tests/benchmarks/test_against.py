"""`make bench`: ratios of two builds, taken within a round; what one of them cannot do is said."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import against


def one(cpu_s: float, **more: Any) -> dict[str, Any]:
    return {"cpu_s": cpu_s, "wall_s": 2 * cpu_s, "peak_mb": 100, **more}


def test_ratios_are_this_build_over_the_other_within_a_round() -> None:
    pairs = [
        {"now": one(1.0), "before": one(2.0)},
        {"now": one(9.0), "before": one(6.0)},
        {"now": one(4.0), "before": one(4.0)},
    ]
    assert against.ratios(pairs) == {"cpu_s": 1.0, "wall_s": 1.0, "peak_mb": 1.0}
    quick = [{"now": one(1.0, samples_per_s=30.0), "before": one(1.0, samples_per_s=20.0)}]
    assert against.ratios(quick)["samples_per_s"] == 1.5
    assert "first_rows_s" not in against.ratios([{"now": one(1.0, first_rows_s=2.0), "before": one(1.0)}])


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_both_builds_run_in_turn_and_what_one_cannot_do_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    works = script(tmp_path / "works", f'echo "$0 $*" >> {ran}; echo "{{}}"')
    other = script(tmp_path / "other", f'echo "$0 $*" >> {ran}; echo "{{}}"')
    case = against.Case(name="plan", words=lambda own: ["plan", f"{own}/job.json"])
    found = against.compare(case, {"before": other, "now": works}, tmp_path / "t", rounds=2)
    assert len(found["rounds"]) == 2
    order = [Path(line.split()[0]).name for line in ran.read_text().splitlines()]
    assert order == ["other", "works", "works", "other"]
    assert f"{works} plan {tmp_path}/t/now/job.json" in ran.read_text()
    refuses = script(tmp_path / "refuses", "echo 'no such command' >&2; exit 2")
    left = against.compare(case, {"before": refuses, "now": works}, tmp_path / "t", rounds=1)
    assert left["left_out"].startswith("before: ")
    table = against.as_table([{"case": "a", "ratios": {"cpu_s": 0.5}}, left])
    assert "| a | 0.5 |  |  |  |  |" in table
    assert "| plan | left out: before: " in table


def test_the_jobs_are_the_same_for_both_and_their_tables_are_not(tmp_path: Path) -> None:
    jobs = {}
    for name in ("before", "now"):
        (tmp_path / name).mkdir()
        for case in against.cases(tmp_path / "inputs"):
            words = case.words(tmp_path / name)
            if words[1].endswith(".json"):
                jobs[name, case.name] = json.loads(Path(words[1]).read_text())
    tables = {job.pop("table") for job in jobs.values()}
    assert len(tables) == 6
    for case in against.cases(tmp_path / "inputs"):
        assert jobs.get(("before", case.name)) == jobs.get(("now", case.name))


def test_a_commit_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no commit 'nonsense' here\nhint: make bench AGAINST"):
        against.checkout("nonsense", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_make_bench_wants_a_name_and_nothing_else_does() -> None:
    def make(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", "-n", *words], cwd=against.ROOT, capture_output=True, text=True)

    assert "make bench AGAINST=COMMIT" in make("bench").stderr
    assert "benchmarks.against abc" in make("bench", "AGAINST=abc").stdout
    assert make("test").returncode == 0
