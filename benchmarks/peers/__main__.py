"""clipmill and its peers over the same shards, checkpoint and captions, in paired rounds.

    python -m benchmarks.peers --folder DIR [--rounds 5] [--tools clipmill Daft ...] [--out benchmarks/results] [--add]

DIR keeps the environments (made on the first run, several GB), the shards and the checkpoint. In a round every tool
runs once, in a process of its own; ratios are taken within a round, and their median is quoted. `--add` adds rounds to
today's result. clipmill gets more shards than the others: rates are compared, not times. Too few samples flatter it: a
tool that starts processes of its own when reading begins (clip-retrieval, the DataLoader) has that in its rate.
"""

import argparse
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, pictures
from benchmarks.peers.checkpoint import make_checkpoint
from benchmarks.peers.clock import Given
from benchmarks.peers.compare import as_markdown, cosines, summarise
from benchmarks.peers.environments import CannotInstall, python_of, versions
from benchmarks.peers.tools import OURS, TOOLS, Failed, Outcome, run_tool

MODEL = "ViT-B-32"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for environments, shards, checkpoint, outputs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--samples", type=int, default=1536, help="for clipmill")
    parser.add_argument("--peer-samples", type=int, default=768, help="for everything else")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    parser.add_argument("--add", action="store_true", help="add rounds to today's result")
    given = parser.parse_args()
    if given.peer_samples < 2 * pictures.SHARD_SAMPLES:
        parser.error("clip-retrieval needs a tar for each of its two readers: --peer-samples 128 or more")
    if OURS not in given.tools:
        parser.error(f"ratios need {OURS} among --tools")
    bench = Bench(given)
    path = machine.dated(given.out, "peers") if given.out else None
    result = bench.facts()
    if path and given.add and path.exists():
        result = joined(machine.load(path), result)
    for number in range(given.rounds):
        bench.round(len(result["rounds"]), result, path)
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    print(as_markdown(result["summary"], result["vectors"]))
    return 0


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Today's earlier result with the facts of the tools that are new in this call."""
    both = ("versions", "settings", "could_not_be_installed", "failed")
    return {**old, **{name: {**old[name], **new[name]} for name in both}}


class Bench:
    """What all rounds share: environments, shards, checkpoint."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.folder.resolve()
        self.pythons: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        for name in given.tools:
            try:
                self.pythons[name] = python_of(TOOLS[name].environment, self.folder / "environments")
            except CannotInstall as error:
                self.missing[name] = str(error)
        self.shards = self.folder / "shards"
        self.source = pictures.make_shards(self.shards, max(given.samples, given.peer_samples))
        self._unpack(given.peer_samples)
        self.checkpoint = self._checkpoint()
        self.vectors: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        environments = {name: TOOLS[name].environment for name in self.pythons}
        return {
            "at": machine.now(),
            "machine": machine.machine(),
            "model": f"{MODEL}, random weights made sensitive, one state dict for all tools, on the CPU",
            "source": self.source,
            "versions": {env: versions(env, self.pythons[name]) for name, env in environments.items()},
            "settings": {n: {"batch_size": TOOLS[n].batch_size, **TOOLS[n].options} for n in self.pythons if n != OURS},
            "could_not_be_installed": self.missing,
            "failed": {},
            "rounds": [],
        }

    def round(self, number: int, result: dict[str, Any], path: Path | None) -> None:
        """Every tool once, each round starting with another. What is there is saved after each tool."""
        names = list(self.pythons)
        names = names[number % len(names) :] + names[: number % len(names)]
        figures: dict[str, dict[str, float]] = {}
        result["rounds"].append(figures)
        for name in names:
            try:
                outcome = self._run(name)
            except Failed as error:
                result["failed"][name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
                continue
            figures[name] = {
                "samples": outcome.samples,
                "seconds": outcome.seconds,
                "samples_per_s": round(outcome.samples_per_s, 3),
                "startup_s": outcome.startup_s,
                "cpu_ms": round(1000 * outcome.cpu_s / outcome.samples, 1),
                "peak_rss_mb": outcome.peak_rss_mb,
            }
            print(f"{name}: {outcome}", file=sys.stderr)
            self._compare(figures)
            result["summary"] = summarise(result["rounds"], OURS)
            result["vectors"] = {**result.get("vectors", {}), **self.vectors}
            if path:
                machine.save(path, result)

    def _run(self, name: str) -> Outcome:
        tool = TOOLS[name]
        samples = self.given.samples if name == OURS else self.given.peer_samples
        given = Given(
            tars=[str(path) for path in pictures.shards(self.shards, samples)],
            folder=str(self.folder / "loose"),
            model=MODEL,
            checkpoint=str(self.checkpoint),
            out=str(self._out(name)),
            samples=samples,
            threads=self.given.threads,
            batch_size=tool.batch_size,
            options=tool.options,
        )
        return run_tool(tool, self.pythons[name], given)

    def _compare(self, figures: dict[str, Any]) -> None:
        if OURS not in figures:
            return
        mine = np.load(self._out(OURS) / "vectors.npz")
        for name in figures:
            if name not in (OURS, *self.vectors):
                self.vectors[name] = cosines(mine, np.load(self._out(name) / "vectors.npz"))

    def _out(self, name: str) -> Path:
        out: Path = self.folder / "out" / "".join(c if c.isalnum() else "-" for c in name)
        return out

    def _unpack(self, samples: int) -> None:
        """The first shards as loose files, for the tools that read folders; not timed."""
        loose = self.folder / "loose"
        if loose.exists() and len(list(loose.glob("*.jpg"))) == samples:
            return
        for path in pictures.shards(self.shards, samples):
            with tarfile.open(path) as archive:
                archive.extractall(loose, filter="data")

    def _checkpoint(self) -> Path:
        loose = sorted((self.folder / "loose").glob("*.jpg"))[:64]
        captions = [path.with_suffix(".txt").read_text() for path in loose]
        jpegs = [path.read_bytes() for path in loose]
        return make_checkpoint(self.folder / "checkpoint" / f"{MODEL}.pt", MODEL, jpegs, captions)


if __name__ == "__main__":
    sys.exit(main())
