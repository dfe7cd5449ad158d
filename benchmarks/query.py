"""Search at a million: times, recall and memory of clipmill beside brute force and LanceDB's defaults.

    python -m benchmarks.query [--rows 1000000] [--kind clustered|one-domain] [--folder DIR] [--queries 60] [--no-peers]
    python -m benchmarks.query --folder DIR --prepare clipmill   (or lancedb: the two builds, one at a time)
    python -m benchmarks.query --folder DIR --reuse              (the queries alone, over what was built)
    python -m benchmarks.query --folder DIR --reuse --paired     (only what measuring costs a search, or saves)

Recall@10 is against exact cosines of the stored float16 vectors under the same filter. One query at a time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.query_cases import CASES
from benchmarks.query_data import KINDS, write
from benchmarks.query_steps import STEPS
from clipmill.jobs.indexing.plan import SMALL_BYTES

BUILDS = {"clipmill": ("build",), "lancedb": ("copy", "build LanceDB")}
QUERIES = ("clipmill", "LanceDB defaults", "brute force")


def main() -> None:
    options = _arguments()
    if options.step:
        print(json.dumps(STEPS[options.step](options.uri, options.queries, options.dim)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    uri = write(options.folder, options.rows, options.dim, options.kind)
    wanted = (
        [options.prepare] if options.prepare else [] if options.reuse else ["clipmill", *_peers(options, "lancedb")]
    )
    for who in wanted:
        for step in BUILDS[who]:
            built = in_process(step, uri, options) | {"at": machine.now()}
            _note(uri, step).write_text(json.dumps(built))
    if options.prepare:
        return
    if options.paired:
        results = {"paired": in_process("paired", uri, options)}
        print(json.dumps(results, indent=1))
        _save(options, results, f"query-paired-{options.kind}-{options.rows}")
        return
    notes = {step: _note(uri, step) for step in ("build", *_peers(options, "build LanceDB"))}
    results = {step: json.loads(note.read_text()) for step, note in notes.items() if note.exists()}
    peers = [step for step in QUERIES[1:] if step != "LanceDB defaults" or "build LanceDB" in results]
    for step in ("clipmill", *_peers(options, *peers)):
        results[step] = in_process(step, uri, options)
    put_recall(results, in_process("truth", uri, options))
    print(as_markdown(results))
    _save(options, results, f"query-{options.kind}-{options.rows}")


def _save(options: argparse.Namespace, results: dict[str, Any], name: str) -> None:
    if not options.out:
        return
    report = {
        "machine": machine.machine(("pylance", "lancedb")),
        "rows": options.rows,
        "kind": options.kind,
        "dim": options.dim,
        "queries": options.queries,
    }
    machine.save(machine.dated(options.out, name), report | {"results": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="of vectors; benchmarks/query_data.py")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "clipmill-bench")
    parser.add_argument("--prepare", choices=list(BUILDS), help="only build, once more, what the queries need")
    parser.add_argument("--reuse", action="store_true", help="build nothing; take what the folder has")
    parser.add_argument("--no-peers", action="store_true", help="without brute force and LanceDB's defaults")
    parser.add_argument("--paired", action="store_true", help="with what was measured beside the constants, in turns")
    parser.add_argument("--out", type=Path, help="folder for the dated JSON")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if 2 * options.rows * options.dim < SMALL_BYTES and not options.step:
        parser.error(f"a table of {options.rows} x {options.dim} is read whole and gets no index; give it more --rows")
    return options


def _peers(options: argparse.Namespace, *steps: str) -> tuple[str, ...]:
    return () if options.no_peers else steps


def _note(uri: str, step: str) -> Path:
    """Where a build leaves what it measured, for the queries' run."""
    return Path(f"{uri}.{step.replace(' ', '-')}.json")


def in_process(step: str, uri: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step in a fresh process, so that its peak memory is its own."""
    arguments = ["--dim", str(options.dim), "--queries", str(options.queries), "--step", step, "--uri", uri]
    command = [sys.executable, "-m", "benchmarks.query", *arguments]
    print(f"{step} ...", file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def put_recall(results: dict[str, Any], truths: dict[str, list[list[str]]]) -> None:
    """Put recall in place of answers."""
    for step in set(results) & set(QUERIES):
        for name in set(CASES) & set(results[step]):
            entry = results[step][name]
            for timing in [entry] if "answers" in entry else [e for e in entry.values() if isinstance(e, dict)]:
                if (answers := timing.pop("answers", None)) is not None:
                    pairs = [(a, t) for a, t in zip(answers, truths[name], strict=False) if t]  # some tags no row has
                    shares = [len(set(a) & set(t)) / len(t) for a, t in pairs]
                    timing["recall"] = float(np.mean(shares))


def as_markdown(results: dict[str, Any]) -> str:
    lines = [
        f"{step}: {built['kind']}, {built['seconds']:.0f} s, {built.get('cpu_s', 0):.0f} s of CPU, "
        f"peak {built['peak_mb']:.0f} MB ({built['at']})"
        for step, built in results.items()
        if step not in QUERIES
    ]
    columns = {place: ("clipmill", place) for place in ("script", "script again", "server", "server again")}
    columns |= {step: (step, "") for step in QUERIES[1:] if step in results}
    lines += ["", "| query | rows | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name in CASES:
        cells = []
        for step, place in columns.values():
            entry = results[step].get(name, {})
            cells.append(_cell(entry.get(place) if place else entry))
        lines.append(f"| {name} | {results['clipmill'][name]['rows']:,} | " + " | ".join(cells) + " |")
    peaks = [f"{step}: peak {results[step]['peak_mb']:.0f} MB" for step in QUERIES if step in results]
    return "\n".join([*lines, "", "cells: p50 / p95 in ms, recall@10", *peaks])


def _cell(timing: dict[str, float] | None) -> str:
    if not timing:
        return "-"
    recall = f", {timing['recall']:.3f}" if "recall" in timing else ""
    return f"{timing['p50_ms']:.1f} / {timing['p95_ms']:.1f}{recall}"


if __name__ == "__main__":
    main()
