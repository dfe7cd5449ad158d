"""`make bench`: ratios of two builds, taken within a round; what one of them cannot do is said."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import against, against_searches
from benchmarks.serving_words import write
from clipmill.jobs.querying.open import open_table
from tests.tables import DIM, make_table


def one(cpu_s: float, **more: Any) -> dict[str, Any]:
    return {"cpu_s": cpu_s, "wall_s": 2 * cpu_s, "peak_mb": 100, **more}


def test_ratios_are_this_build_over_the_other_within_a_round() -> None:
    pairs = [
        {"now": one(1.0), "before": one(2.0)},
        {"now": one(9.0), "before": one(6.0)},
        {"now": one(4.0), "before": one(4.0)},
    ]
    assert against.ratios(pairs) == {"cpu_s": 1.0, "wall_s": 1.0, "peak_mb": 1.0}
    quick = [{"now": one(1.0, per_s=30.0), "before": one(1.0, per_s=20.0)}]
    assert against.ratios(quick)["per_s"] == 1.5
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
    table = against.as_table([{"case": "a", "ratios": {"cpu_s": 0.5, "recall": 1.0}, "same_answer": False}, left])
    assert "| a (another answer) | 0.5 |  |  |  |  |  | 1.0 |" in table
    assert "| plan | left out: before: " in table


def test_a_short_command_runs_oftener_and_its_first_run_is_not_counted(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    works = script(tmp_path / "works", f'echo run >> {ran}; echo "{{}}"')
    prepared: list[Path] = []
    case = against.Case(name="search", words=lambda own: ["search"], times=2, prepare=prepared.append)
    found = against.compare(case, {"before": works, "now": works}, tmp_path / "t", rounds=2)
    assert len(found["rounds"]) == 4
    assert len(ran.read_text().splitlines()) == len(prepared) == 10
    once = against.Case(name="demo", words=lambda own: ["demo"], once=True)
    assert len(against.compare(once, {"before": works, "now": works}, tmp_path / "t", rounds=3)["rounds"]) == 1


def test_another_answer_is_said(tmp_path: Path) -> None:
    builds = {
        name: script(tmp_path / name, f"echo '{{\"rows\": {rows}}}'") for name, rows in (("before", 3), ("now", 4))
    }
    case = against.Case(name="verify", words=lambda own: ["verify"])
    assert against.compare(case, builds, tmp_path / "t", rounds=1)["same_answer"] is False


def test_a_case_that_is_chosen_has_the_table_that_another_makes(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    works = script(tmp_path / "works", f'echo "$1" >> {ran}; echo "{{}}"')
    known = [
        against.Case(name="make", words=lambda own: ["make"]),
        against.Case(name="use", words=lambda own: ["use"], after="make"),
        against.Case(name="use again", words=lambda own: ["again"], after="make"),
    ]
    builds = {"before": works, "now": works}
    found = against.run_all(known, builds, tmp_path / "t", rounds=1, only=["use"])
    assert [one["case"] for one in found] == ["use", "use again"]
    assert ran.read_text().split() == ["make", "make", "use", "use", "again", "again"]


@pytest.mark.parametrize("only", [["use"], None])
def test_what_needs_a_table_that_one_build_could_not_make_is_left_out(
    tmp_path: Path, only: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against, "CASES_HERE", ())
    works = script(tmp_path / "works", 'echo "{}"')
    breaks = script(tmp_path / "breaks", 'test "$1" != make && echo "{}"')
    known = [
        against.Case(name="make", words=lambda own: ["make"]),
        against.Case(name="use", words=lambda own: ["use"], after="make"),
    ]
    *_, used = against.run_all(known, {"before": works, "now": breaks}, tmp_path / "t", rounds=1, only=only)
    assert used == {"case": "use", "left_out": "make was"}


def asked(uri: str, vectors: Path, kinds: dict[str, Any]) -> dict[str, Any]:
    """What the script that both builds run says."""
    given = {"uri": uri, "vectors": str(vectors), "kinds": kinds, "warm_up": 1}
    command = [sys.executable, "-I", str(against.ROOT / "benchmarks/asking.py")]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, cwd=vectors.parent)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_script_of_either_build_tells_what_it_found_and_what_it_could_not_do(tmp_path: Path) -> None:
    uri = make_table(tmp_path)
    np.save(tmp_path / "questions.npy", np.eye(2, DIM, dtype=np.float32))
    said = asked(
        uri,
        tmp_path / "questions.npy",
        {
            "plain": [{"vector": 0, "k": 3}, {"vector": 1, "k": 3}, {"vector": 0, "k": 3}],
            "tags": [{"vector": 1, "k": 3, "any_tags": ["red"]}] * 2,
            "unknown": [{"vector": 1, "farther": True}],
        },
    )
    table = open_table(uri)
    found = [table.search(vector=np.eye(2, DIM)[n], k=3)["id"].to_pylist() for n in (1, 0)]
    assert said["kinds"]["plain"]["answers"] == found
    assert said["kinds"]["plain"]["cpu_s"] > 0
    assert len(said["kinds"]["tags"]["answers"]) == 1
    assert "farther" in said["kinds"]["unknown"]["error"]
    assert 50 < said["peak_mb"] < 1500


@pytest.mark.slow
def test_scripts_and_servers_are_asked_the_same_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_searches, "SECONDS", 0.2)
    monkeypatch.setattr(against_searches, "SECONDS_OF_MANY", 0.2)
    clipmill = Path(sys.executable).with_name("clipmill")
    made = write(tmp_path / "made", 600)
    for name in ("before", "now"):
        shutil.copytree(f"{made}.lance", f"{tmp_path}/{name}/{against_searches.INDEXED}.lance")
    found = {one["case"]: one for one in against.of_searches({"before": clipmill, "now": clipmill}, tmp_path, 1)}
    assert found.keys() == set(against_searches.CASES_HERE)
    for place in ("script", "server"):
        assert "before: " in found.pop(f"search hybrid, {place}")["left_out"], "there is no index of words"
        (pair,) = found[f"search plain, {place}"]["rounds"]
        # All 600 are compared; which of two that round alike is the tenth may differ from numpy's.
        assert min(pair[name]["recall"] for name in ("now", "before")) > 0.99
    for one in found.values():
        assert one["ratios"].keys() & {"cpu_s", "peak_mb"}


def test_the_jobs_are_the_same_for_both_and_their_tables_are_not(tmp_path: Path) -> None:
    jobs = {}
    for name in ("before", "now"):
        (tmp_path / name).mkdir()
        for case in against.cases(tmp_path / "inputs"):
            words = case.words(tmp_path / name)
            if words[1].endswith(".json"):
                jobs[name, case.name] = json.loads(Path(words[1]).read_text())
    tables = {job.pop("table") for job in jobs.values()}
    assert len(tables) == 8
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
    assert "benchmarks.against abc --only index script" in make("bench", "AGAINST=abc", "ONLY=index script").stdout
    assert make("test").returncode == 0
