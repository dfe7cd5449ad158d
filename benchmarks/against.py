"""Is it slower than it was? A short form of the benchmarks, by two builds in turn: `make bench AGAINST=COMMIT`.

The other build is a worktree of that commit with an environment of its own, made by uv from the commit's lock, once,
under `.bench/`. Both do the same through their command line, one after the other, round by round; a ratio is this
build's over the other's within a round, the median of the rounds is printed, and nothing is judged: a machine that is
busy makes wall time worthless, and CPU time less so. What the other build cannot do is said and left out.

`benchmarks.start` compares what people wait for; here are besides the towers, the work around them with the index at
the end, planning of many objects, a run with nothing to do, and verifying. What no machine changes (requests, bytes,
imports) is held by tests/counted instead.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu.drawn import make_tars
from benchmarks.pictures import Kind
from benchmarks.process import watch
from benchmarks.start import commit_of, measured

ROOT = Path(__file__).resolve().parents[1]
MEASURES = ("cpu_s", "wall_s", "peak_mb", "samples_per_s", "first_rows_s")
_MOST_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`words`: what is typed, without `clipmill`, for a build's own folder. `anew`: its table goes before each run.
    `by_ray`: most of it is done by processes that are not its children."""

    name: str
    words: Callable[[Path], list[str]]
    anew: bool = False
    by_ray: bool = False


def cases(inputs: Path) -> list[Case]:
    """`inputs` holds what `make_inputs` made."""

    def job(table: str, tars: str, **model: Any) -> Callable[[Path], list[str]]:
        def words(own: Path) -> list[str]:
            source = {"format": "webdataset", "uri": f"{inputs}/{tars}/*.tar"}
            if tars != "many":
                source["caption"] = "txt"
            path = own / f"{table}.json"
            path.write_text(json.dumps({"table": f"{own}/{table}/images", "source": source, "model": model}))
            return [str(path), "--json"]

        return words

    towers = job("towers", "pictures", name="ViT-B-32", pretrained="random")
    stub = job("stub", "tiny", name="stub:2048")  # wide, so that so few rows get an index
    plan = job("many", "many", name="ViT-B-32", pretrained="random")
    return [
        Case(name="embed, ViT-B-32", words=lambda own: ["embed", *towers(own)], anew=True, by_ray=True),
        Case(name="embed, stub and index", words=lambda own: ["embed", *stub(own)], anew=True, by_ray=True),
        Case(name="embed, nothing to do", words=lambda own: ["embed", *stub(own)]),
        Case(name="verify", words=lambda own: ["verify", f"{own}/stub/images", "--json"]),
        Case(name="plan of 5,000 tars", words=lambda own: ["plan", *plan(own)]),
    ]


def make_inputs(folder: Path, *, pictures: int = 192, tiny: int = 4500, many: int = 5000) -> None:
    """Drawn; made once."""
    cores = os.cpu_count() or 1
    make_tars(folder / "pictures", 3, Kind(samples_per_shard=pictures // 3), cores)
    make_tars(folder / "tiny", 9, Kind(shortest_px=32, target_bytes=1500, samples_per_shard=tiny // 9), cores)
    first = min((folder / "tiny").glob("*.tar"))
    (folder / "many").mkdir(exist_ok=True)
    for number in range(many):
        path = folder / "many" / f"{number:05d}.tar"
        if not path.exists():
            shutil.copy(first, path) if not number else path.touch()
            os.truncate(path, 200_000_000)  # of which the disk holds nothing


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
    """One run of one build. Raises SystemExit with what it said where it failed."""
    own.mkdir(parents=True, exist_ok=True)
    words = case.words(own)
    if case.anew:
        shutil.rmtree(own / Path(words[1]).stem, ignore_errors=True)
    if not case.by_ray:
        one = measured([str(clipmill), *words], own)
        return {"cpu_s": one["cpu_s"], "wall_s": one["wall_s"], "peak_mb": one["peak_rss_mb"]}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = watch([str(clipmill), *words], env=env, cwd=own, timeout_s=_MOST_S)
    if done.seconds >= _MOST_S:
        raise SystemExit(f"took more than {_MOST_S:.0f} s")
    if done.returncode:
        raise SystemExit(f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    said = json.loads(done.stdout)
    return {
        "cpu_s": round(done.cpu_times[-1][1], 1),
        "wall_s": round(done.seconds, 1),
        "peak_mb": round(done.peak_rss_bytes / 1e6),
        "samples_per_s": said["samples_per_s"],
        "first_rows_s": said["first_rows_s"],
    }


def compare(case: Case, builds: dict[str, Path], folder: Path, rounds: int) -> dict[str, Any]:
    """`ratios`: of this build over the other, by what is measured."""
    pairs: list[dict[str, dict[str, Any]]] = []
    for turn in range(rounds):
        pair = {}
        for name in sorted(builds, reverse=bool(turn % 2)):  # neither is always the first
            try:
                pair[name] = once(builds[name], case, folder / name)
            except SystemExit as error:
                return {"case": case.name, "left_out": f"{name}: {str(error).splitlines()[0][:300]}"}
            print(f"{case.name}, {name}: {pair[name]}", file=sys.stderr)
        pairs.append(pair)
    return {"case": case.name, "rounds": pairs, "ratios": ratios(pairs)}


def ratios(pairs: list[dict[str, dict[str, Any]]]) -> dict[str, float]:
    found = {}
    for what in MEASURES:
        both = [(pair["now"].get(what), pair["before"].get(what)) for pair in pairs]
        of_rounds = [now / before for now, before in both if now and before]
        if of_rounds:
            found[what] = round(statistics.median(of_rounds), 3)
    return found


def as_table(found: list[dict[str, Any]]) -> str:
    titles = ("CPU time", "wall time", "peak memory", "samples/s", "first rows after")
    lines = ["| case | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for one in found:
        if "left_out" in one:
            lines.append(f"| {one['case']} | left out: {one['left_out']} |" + " |" * (len(titles) - 1))
            continue
        lines.append(f"| {one['case']} | " + " | ".join(str(one["ratios"].get(what, "")) for what in MEASURES) + " |")
    return "\n".join(lines)


def start(before: Path, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """What `benchmarks.start` finds, in this page's words; it needs photographs."""
    if not os.environ.get("CLIPMILL_TEST_DATA"):
        return [{"case": "benchmarks.start", "left_out": "it needs photographs: set CLIPMILL_TEST_DATA"}]
    command = [sys.executable, "-m", "benchmarks.start", "--before", str(before), "--folder", str(folder / "start")]
    done = subprocess.run([*command, "--rounds", str(rounds)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        return [{"case": "benchmarks.start", "left_out": f"ended with {done.returncode}"}]
    names = {"peak_rss_mb": "peak_mb"}
    return [
        {
            "case": one["case"],
            "same_answer": one.get("same_answer"),
            "ratios": {names.get(k, k): v["ratio"] for k, v in one.items() if isinstance(v, dict) and "ratio" in v},
        }
        for one in json.loads(done.stdout)["cases"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the build to compare with")
    parser.add_argument("--home", type=Path, default=ROOT / ".bench", help="keeps worktrees, inputs and tables")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="words of cases; `start` for benchmarks.start")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    home = given.home.resolve()
    tree = checkout(given.commit, home)
    make_inputs(home / "inputs")
    builds = {"before": tree / ".venv/bin/clipmill", "now": Path(sys.executable).with_name("clipmill")}
    wanted = [one for one in cases(home / "inputs") if not given.only or any(w in one.name for w in given.only)]
    found = [compare(case, builds, home / "tables", given.rounds) for case in wanted]
    if not given.only or "start" in given.only:
        found += start(tree, home, given.rounds)
    result = {
        "at": machine.now(),
        "machine": machine.machine(),
        "before": commit_of(tree),
        "now": commit_of(ROOT),
        "cases": found,
    }
    print(f"{result['now']} over {result['before']}: under 1 is less than it was\n\n{as_table(found)}")
    if given.out:
        machine.save(machine.dated(given.out.resolve(), "against"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
