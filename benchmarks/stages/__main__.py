"""Each stage alone, the bound they imply together, and what the whole job reaches of it.

    python -m benchmarks.stages --folder DIR [--rounds 5] [--samples 1536] [--alone] [--out benchmarks/results]

Shards, table and job are on a local S3 server (moto, in a process of its own). A stage alone gives samples/s and CPU
seconds per sample, of all its threads. Stages on a CPU share the cores, so the bound is cores / sum of their CPU
seconds per sample; on a CPU the server shares them too, and `bound_with_server` counts its CPU time as measured during
the job. The wire is a bound of its own. A round measures stages and job one after the other and takes their quotient.
On a machine that does other things the quotient says little; `stages_share_of_job_cpu` compares CPU times instead, and
says what the job adds to its stages, though not where it waits. Every round also measures what the cores multiply at
most (`peak`), of which the towers' operations, counted as they run, are a share.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine, pictures
from benchmarks.stages.alone import stages
from benchmarks.stages.peak import peaks
from benchmarks.stages.summary import summarise
from benchmarks.stages.whole import job

MODEL = "ViT-B-32"


def peak(options: argparse.Namespace) -> dict[str, Any]:
    return peaks(options.threads)


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"peak": peak, "stages": stages, "job": job}


def in_process(step: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fresh, so that one step's memory and threads are not the next one's."""
    handed = {name: value for name, value in vars(options).items() if isinstance(value, str | int)}
    command = [
        sys.executable,
        "-m",
        "benchmarks.stages",
        "--folder",
        ".",
        "--step",
        step,
        "--handed",
        json.dumps(handed),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the shards")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1536)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--pretrained", default="random", help="a tag or a checkpoint; speed does not depend on it")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    parser.add_argument("--alone", action="store_true", help="the peak and the stages, without the whole job")
    parser.add_argument("--add", action="store_true", help="add rounds to today's result")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--handed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        vars(options).update(json.loads(options.handed))
        print(json.dumps(STEPS[options.step](options)))
        return 0
    path = machine.dated(options.out.resolve(), "stages") if options.out else None
    before = machine.load(path) if path and options.add and path.exists() else None
    for result in measure(options, before):
        if path:
            machine.save(path, result)  # after every round: on a busy machine one takes long
    print(json.dumps(result["summary"], indent=1))
    return 0


def measure(options: argparse.Namespace, result: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The result after each round."""
    from clipmill.jobs.demo.server import BUCKET, local_s3, upload

    source = pictures.make_shards(options.folder.resolve() / "shards", options.samples)
    with tempfile.TemporaryDirectory() as log, local_s3(Path(log) / "server.log") as storage:
        for _ in upload(options.folder.resolve() / "shards", "shards/", storage):
            pass
        options.endpoint, options.bucket = storage.endpoint_url, BUCKET
        options.server_pid = _server_pid()
        result = result or {"at": machine.now(), "machine": machine.machine(), "source": source, "rounds": []}
        result["settings"] = {"model": options.model, "threads": options.threads, "samples": options.samples}
        for _ in range(options.rounds):
            steps = [step for step in STEPS if step != "job" or not options.alone]
            result["rounds"].append({step: in_process(step, options) for step in steps})
            result["summary"] = summarise(result["rounds"], options.threads)
            said = {key: result["summary"].get(key) for key in ("towers", "share_of_bound_with_server")}
            print(json.dumps(said), file=sys.stderr)
            yield result


def _server_pid() -> int:
    """The one child that this process has while it only serves."""
    import psutil

    (server,) = psutil.Process().children()
    return int(server.pid)


if __name__ == "__main__":
    sys.exit(main())
