"""Is it slower than it was? A short form of the benchmarks, by two builds in turn: `make bench AGAINST=COMMIT`.

The other build is a worktree of that commit with an environment of its own, made by uv from the commit's lock, once,
under `.bench/`. Both do the same through their command line, in a script or as servers, one after the other, round by
round; a ratio is this build's over the other's within a round, the median of the rounds is printed, and nothing is
judged: a machine that is busy makes wall time worthless, and CPU time less so. What the other build cannot do is said
and left out.

What people wait for is here: the towers and the work around them, the first rows, cold commands, the demo, building an
index and adding to it, searching in a script and in a server, many clients, and the memory of a worker and of a server.
What no machine changes (requests, bytes, imports) is held by tests/counted instead.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.against_cases import MOST_ROUNDS, Case, cases, make_inputs
from benchmarks.against_searches import CASES_HERE, Pairs, searches
from benchmarks.process import watch
from benchmarks.start import commit_of, measured, same
from benchmarks.worker_memory import Peak

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "cpu_s": "CPU time",
    "wall_s": "wall time",
    "peak_mb": "peak memory",
    "worker_mb": "of a worker",
    "per_s": "samples or requests/s",
    "first_rows_s": "first rows after",
    "recall": "recall@10",
}
_MOST_S = 300.0


def checkout(commit: str, home: Path) -> Path:
    """A worktree of the commit with its own `.venv`, made where it is missing. Raises SystemExit for no such commit."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "--verify", "--quiet", f"{commit}^{{commit}}"]
    found = subprocess.run(asked, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"error: there is no commit '{commit}' here\nhint: make bench AGAINST=COMMIT, a name or hash")
    tree = home / found.stdout.strip()
    if (tree / ".venv" / ".installed").exists():
        return tree
    if not tree.exists():
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", "--force", str(tree), commit], check=True
        )
    uv, python = Path(sys.executable).with_name("uv"), tree / ".venv/bin/python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tree / ".venv"], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, "-r", tree / "requirements.lock"], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "-e", tree], check=True)
    (tree / ".venv" / ".installed").touch()
    return tree


def once(clipmill: Path, case: Case, own: Path) -> dict[str, Any]:
    """One run of one build; `answer` is what it printed. Raises SystemExit with what it said where it failed."""
    own.mkdir(parents=True, exist_ok=True)
    case.prepare(own)
    words = case.words(own)
    if not case.by_ray:
        one = measured([str(clipmill), *words], own)
        return {
            "cpu_s": one["cpu_s"],
            "wall_s": one["wall_s"],
            "peak_mb": one["peak_rss_mb"],
            "answer": one["answer"],
        }
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    worker = Peak()
    done = watch([str(clipmill), *words], env=env, cwd=own, timeout_s=_MOST_S, also=worker.look)
    if done.seconds >= _MOST_S:
        raise SystemExit(f"took more than {_MOST_S:.0f} s")
    if done.returncode:
        raise SystemExit(f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    said = json.loads(done.stdout)
    return {
        "cpu_s": round(done.cpu_times[-1][1], 1),
        "wall_s": round(done.seconds, 1),
        "peak_mb": round(done.peak_rss_bytes / 1e6),
        "worker_mb": worker.mb.get("VmHWM"),
        "per_s": said.get("samples_per_s"),
        "first_rows_s": said.get("first_rows_s"),
    }


def compare(case: Case, builds: dict[str, Path], folder: Path, rounds: int) -> dict[str, Any]:
    """`ratios`: of this build over the other, by what is measured."""
    pairs: Pairs = []
    alike = True
    turns = 1 if case.once else rounds * case.times + (case.times > 1)
    for turn in range(turns):
        pair = {}
        for name in sorted(builds, reverse=bool(turn % 2)):  # neither is always the first
            try:
                pair[name] = once(builds[name], case, folder / name)
            except SystemExit as error:
                return {"case": case.name, "left_out": f"{name}: {str(error).splitlines()[0][:300]}"}
        answers = [pair[name].pop("answer", None) for name in ("before", "now")]
        if None not in answers:
            alike = alike and same(case.name, *answers)
        print(f"{case.name}: {pair}", file=sys.stderr)
        if turn or case.times == 1:
            pairs.append(pair)
    return {"case": case.name, "same_answer": alike, "rounds": pairs, "ratios": ratios(pairs)}


def ratios(pairs: Pairs) -> dict[str, float]:
    found = {}
    for what in TITLES:
        both = [(pair["now"].get(what), pair["before"].get(what)) for pair in pairs]
        of_rounds = [now / before for now, before in both if now and before]
        if of_rounds:
            found[what] = round(statistics.median(of_rounds), 3)
    return found


def of_searches(builds: dict[str, Path], folder: Path, rounds: int) -> list[dict[str, Any]]:
    found = []
    for case, pairs in searches(builds, folder, rounds).items():
        errors = [f"{name}: {one['error']}" for pair in pairs for name, one in pair.items() if "error" in one]
        found.append(
            {"case": case, "left_out": errors[0][:300]}
            if errors
            else {"case": case, "rounds": pairs, "ratios": ratios(pairs)}
        )
    return found


def as_table(found: list[dict[str, Any]]) -> str:
    lines = ["| case | " + " | ".join(TITLES.values()) + " |", "|---" * (1 + len(TITLES)) + "|"]
    for one in found:
        if "left_out" in one:
            lines.append(f"| {one['case']} | left out: {one['left_out']} |" + " |" * (len(TITLES) - 1))
            continue
        name = one["case"] + ("" if one.get("same_answer", True) else " (another answer)")
        lines.append(f"| {name} | " + " | ".join(str(one["ratios"].get(what, "")) for what in TITLES) + " |")
    return "\n".join(lines)


def chosen(name: str, only: list[str] | None) -> bool:
    """Whether a word of `only` is in the name; without any all are."""
    return not only or any(word in name for word in only)


def run_all(
    known: list[Case], builds: dict[str, Path], folder: Path, rounds: int, only: list[str] | None
) -> list[dict[str, Any]]:
    """What is asked for, case by case; what makes a table that is missing from it is run first and not counted."""
    wanted = [one for one in known if chosen(one.name, only)]
    of_names = {one.name: one for one in known}
    done: dict[str, bool] = {}  # by case, whether both builds could do it
    found = []
    for case in wanted:
        if case.after and case.after not in done:
            done[case.after] = "left_out" not in compare(of_names[case.after], builds, folder, 1)
        if case.after and not done[case.after]:
            found.append({"case": case.name, "left_out": f"{case.after} was"})
        else:
            found.append(compare(case, builds, folder, rounds))
        done[case.name] = "left_out" not in found[-1]
    if any(chosen(name, only) for name in CASES_HERE):
        for case in known:
            if case.name.startswith("index") and case.name not in done:
                compare(case, builds, folder, 1)
        found += of_searches(builds, folder, rounds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the build to compare with")
    parser.add_argument("--home", type=Path, default=ROOT / ".bench", help="keeps worktrees, inputs and tables")
    parser.add_argument("--rounds", type=int, default=2, choices=range(1, MOST_ROUNDS + 1), metavar="N")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="words of cases' names, such as embed, index, search")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    home = given.home.resolve()
    tree = checkout(given.commit, home)
    make_inputs(home / "inputs")
    builds = {"before": tree / ".venv/bin/clipmill", "now": Path(sys.executable).with_name("clipmill")}
    start = time.monotonic()
    found = run_all(cases(home / "inputs"), builds, home / "tables", given.rounds, given.only)
    result = {
        "at": machine.now(),
        "machine": machine.machine(),
        "before": commit_of(tree),
        "now": commit_of(ROOT),
        "took_s": round(time.monotonic() - start),
        "cases": found,
    }
    print(f"{result['now']} over {result['before']}: under 1 is less than it was\n\n{as_table(found)}")
    if given.out:
        machine.save(machine.dated(given.out.resolve(), f"against-{result['before']}"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
