"""What the commands that people wait for cost before their first answer, against another build of clipmill.

Both builds run the same command on the same table, one after the other, round by round; the ratio is taken within a
round. CPU seconds are those of the command and of all processes that it started, Ray's too. Other work on the machine
disturbs them little, though threads that wait for one another spin longer; wall time is given beside them. The answers
are compared: the rows found, and their scores, which differ by what low precision does.

The other build is a checkout of the commit to compare with, installed into its own `.venv`; it also makes the table, of
photographs embedded by clipmill-tiny, so that both can read it. `embed` begins anew each time, with Ray's own start.
A case that is called `first` begins without what earlier starts left in the user's cache, as on another machine.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pictures import make_shards, photographs

ROUNDS, SAMPLES = 5, 128
SCORE_TOLERANCE = 0.005  # bf16 and fp32 of one model
WORDS = "a folded blue shirt"


def commit_of(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


class TreeTime:
    """CPU seconds of a process and of all that descend from it, looked at ten times a second: Ray's raylet lets its
    children go without adding their time to its own. Of a process that ends, the last look counts. `peak_mb`: of the
    process alone, by the kernel; getrusage would count what this program held when it began it."""

    def __init__(self, pid: int) -> None:
        self._pid, self._seen, self._ended = pid, dict[int, float](), threading.Event()
        self._known, self.pid, self.peak_mb = {pid}, pid, 0
        self._thread = threading.Thread(target=self._look_on)
        self._thread.start()

    def end(self) -> float:
        self._ended.set()
        self._thread.join()
        return sum(self._seen.values())

    def _look_on(self) -> None:
        while not self._ended.wait(0.1):
            with contextlib.suppress(OSError, IndexError):  # it has ended
                status = Path(f"/proc/{self.pid}/status").read_text()
                self.peak_mb = round(int(status.split("VmHWM:")[1].split()[0]) * 1.024e-3)
            above = dict[int, int]()
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    pid = int(entry.name)
                    above[pid] = int(fields[1])
                    if pid in self._known:
                        self._seen[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for _ in above:
                more = {pid for pid, parent in above.items() if parent in self._known} - self._known
                self._known |= more
                if not more:
                    break


def measured(command: list[str], cwd: Path, **environment: str) -> dict[str, Any]:
    """CPU and wall seconds of a command, and what it printed. Raises SystemExit where it failed."""
    # Bytecode that is not kept is compiled in every start, by both builds: that is not what is compared.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | environment
    out, said = cwd / "stdout", cwd / "stderr"
    with out.open("wb") as stdout, said.open("wb") as stderr:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
        tree = TreeTime(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start
        cpu_s = tree.end()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}: {said.read_text()[-2000:]}")
    return {
        "cpu_s": round(max(cpu_s, used.ru_utime + used.ru_stime), 2),
        "wall_s": round(wall_s, 2),
        "peak_rss_mb": tree.peak_mb,
        "answer": json.loads(out.read_text()),
    }


def job_file(folder: Path, name: str, model: str = "") -> Path:
    """`model`: a folder with weights, or a name, with random ones; else clipmill-tiny."""
    job = folder / f"{name}{model.replace('/', '-')}.yaml"
    random = "" if Path(model).is_absolute() else ", pretrained: random"
    job.write_text(
        f"table: {folder}/{name}/images\nsource: {{format: webdataset, uri: '{folder}/pictures/*.tar', caption: txt}}\n"
        + (f"model: {{name: {model}{random}}}\n" if model else "")
    )
    return job


def commands(folder: Path, checkpoint: Path | None) -> dict[str, list[str]]:
    table = f"{folder}/db/images"
    found = {
        "search words": ["search", table, WORDS, "-k", "5", "--json"],
        "search image": ["search", table, "--image", str(photographs()[0]), "-k", "5", "--json"],
        "verify --sample 10": ["verify", table, "--sample", "10", "--json"],
        "embed": ["embed", str(job_file(folder, "again")), "--json"],
        "embed ViT-B-32": ["embed", str(job_file(folder, "again", "ViT-B-32")), "--json"],
    }
    if checkpoint is not None:
        words = ["embed", str(job_file(folder, "again", str(checkpoint))), "--json"]
        found |= {f"embed {checkpoint.name} of a file": words, f"embed {checkpoint.name} of a file, first": words}
    return found


def same(case: str, one: Any, other: Any) -> bool:
    """Whether both builds gave the same answer."""
    if case.startswith("search"):
        scores, others = ({row["id"]: row["score"] for row in answer} for answer in (one, other))
        # In any order: two rows whose scores differ by less than low precision does may change places.
        return scores.keys() == others.keys() and all(abs(scores[i] - others[i]) < SCORE_TOLERANCE for i in scores)
    return all(one.get(name) == other.get(name) for name in ("rows", "rejects", "sampled"))


def compare(case: str, words: list[str], builds: dict[str, Path], folder: Path, rounds: int) -> dict[str, Any]:
    """Every build once to fill caches, then the rounds; `ratio` is now over before."""
    cache = folder / "cache"
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    for turn in range(rounds + 1):
        for name, clipmill in builds.items():
            shutil.rmtree(folder / "again", ignore_errors=True)
            if case.endswith("first"):
                shutil.rmtree(cache, ignore_errors=True)
            one = measured([str(clipmill), *words], folder, XDG_CACHE_HOME=str(cache))
            if turn:
                taken[name].append(one)
            print(f"{case}, {name}: {one['cpu_s']} s of CPU, {one['wall_s']} s", file=sys.stderr)
    before, now = taken["before"], taken["now"]
    alike = [same(case, a["answer"], b["answer"]) for a, b in zip(before, now, strict=True)]
    result: dict[str, Any] = {"case": case, "same_answer": all(alike)}
    measures = ["cpu_s", "wall_s", "peak_rss_mb"]
    if case.startswith("embed"):
        measures = ["first_rows_s", *measures[:2]]
        for one in (*before, *now):
            one["first_rows_s"] = one["answer"]["first_rows_s"]
    for what in measures:
        ratios = [b[what] / a[what] for a, b in zip(before, now, strict=True)]
        result[what] = {
            "before": [one[what] for one in before],
            "now": [one[what] for one in now],
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other commit, with its .venv")
    parser.add_argument("--folder", type=Path, required=True, help="for the pictures and the table; kept")
    parser.add_argument("--checkpoint", type=Path, help="a model's folder; its first start is measured too")
    parser.add_argument("--case", action="append", help="only these; default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = given.checkpoint and given.checkpoint.resolve()
    builds = {
        "before": given.before.resolve() / ".venv/bin/clipmill",
        "now": Path(sys.executable).with_name("clipmill"),
    }
    make_shards(folder / "pictures", SAMPLES)
    if not (folder / "db").exists():
        measured([str(builds["before"]), "embed", str(job_file(folder, "db")), "--json"], folder)
    found = commands(folder, checkpoint)
    result: dict[str, Any] = {
        "at": machine.now(),
        "machine": machine.machine(),
        "before": commit_of(given.before),
        "now": commit_of(Path(__file__).parent),
        "cases": [compare(case, found[case], builds, folder, given.rounds) for case in given.case or found],
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        machine.save(machine.dated(given.out.resolve(), "start"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
