"""Each stage alone, the bound they imply together, and what the whole job reaches of it.

    python -m benchmarks.stages --folder DIR [--rounds 5] [--samples 1536] [--out benchmarks/results]

Shards, table and job are on a local S3 server (moto, in a process of its own). A stage alone gives samples/s and CPU
seconds per sample, of all its threads. Stages on a CPU share the cores, so the bound is cores / sum of their CPU
seconds per sample; on a CPU the server shares them too, and `bound_with_server` counts its CPU time as measured during
the job. The wire is a bound of its own. A round measures stages and job one after the other and takes their quotient.
On a machine that does other things the quotient says little; `stages_share_of_job_cpu` compares CPU times instead, and
says what the job adds to its stages, though not where it waits.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, pictures

MODEL = "ViT-B-32"
STAGES = ("read", "decode", "image tower", "text tower", "tag", "write")


def job_of(options: argparse.Namespace, table: str) -> Any:
    """The job as a user would write it, against the local server."""
    from clipmill.schemas.config import JobFile

    return JobFile.model_validate(
        {
            "table": f"s3://{options.bucket}/db/{table}",
            "source": {"format": "webdataset", "uri": f"s3://{options.bucket}/shards/*.tar", "caption": "txt"},
            "model": {"name": options.model, "pretrained": options.pretrained},
            "tags": {"vocabulary": "coco"},
            "storage": {"endpoint_url": options.endpoint, "region": "us-east-1"},
        }
    )


# --- each stage alone -------------------------------------------------------------------------------------------------


def stages(options: argparse.Namespace) -> dict[str, Any]:
    """Samples/s and CPU seconds per sample of each stage, over the shards of `samples` samples."""
    import numpy as np

    from benchmarks.road import Road
    from clipmill.schemas.samples import Sample
    from clipmill.schemas.tasks import Task
    from clipmill.workers.read import read_unit
    from clipmill.workers.write import RowWriter

    road = Road.build(job_of(options, f"stages_{os.getpid()}"), device="cpu", threads=options.threads)
    units, engine = road.units, road.engine
    batch = road.bench.samples_at_once
    result: dict[str, Any] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        result[stage] = {"samples_per_s": len(samples) / wall, "cpu_ms_per_sample": 1000 * cpu / len(samples)}

    samples: list[Sample] = []
    ends = [0]  # of units, in samples: no batch holds those of two
    with timed("read"):
        for unit in units:
            read = read_unit(unit, road.job.source, road.job.storage, road.job.limits)
            samples += [item for item in read if isinstance(item, Sample)]
            ends.append(len(samples))
    result["read"]["mb_per_s"] = (
        result["read"]["samples_per_s"] * sum(len(s.image) for s in samples) / len(samples) / 1e6
    )
    assert road.bench.pool is not None
    with timed("decode"):
        pictures_ = list(road.bench.pool.map(lambda s: engine.prepare(s.image, road.job.limits), samples))
    batches_of = [
        [slice(start, min(start + batch, end)) for start in range(begin, end, batch)] for begin, end in pairwise(ends)
    ]
    batches = list(chain.from_iterable(batches_of))
    captions = [sample.caption or "" for sample in samples]

    def image_tower(rows: slice) -> Any:
        return engine.encode_images(np.stack([p.pixels_CHW for p in pictures_[rows]]))

    def text_tower(rows: slice) -> Any:
        return engine.encode_texts(captions[rows])

    # As many callers as keep all cores busy: fewer callers with more threads each wait for one another.
    engine.share(engine.callers)
    with ThreadPoolExecutor(engine.callers) as callers:
        for tower in (image_tower, text_tower):
            list(callers.map(tower, batches[: 2 * engine.callers]))  # the first calls choose kernels
        with timed("image tower"):
            vectors = list(callers.map(image_tower, batches))
        with timed("text tower"):
            texts = list(callers.map(text_tower, batches))
    with timed("tag"):
        tags = [road.tagger.tag(vectors_BD) for vectors_BD in vectors] if road.tagger else []
    with timed("write"):
        of_batches = ([all_[rows] for rows in batches] for all_ in (samples, pictures_))
        embedded = map(_embedded, *of_batches, vectors, texts, tags)
        for unit, of_unit in zip(units, batches_of, strict=True):
            writer = RowWriter(road.context, Task(unit=unit, attempt=1))
            writer.write(map(writer.record_batch, list(islice(embedded, len(of_unit)))))
    return result


def _embedded(samples: Any, pictures_: Any, vectors_BD: Any, caption_vectors_BD: Any, tags: Any) -> Any:
    import numpy as np

    from clipmill.workers.write import Embedded

    return Embedded(
        samples=samples,
        pictures=pictures_,
        hashes=["0" * 32] * len(samples),
        vectors_BD=vectors_BD,
        caption_vectors_BD=caption_vectors_BD,
        has_caption_B=np.ones(len(samples), bool),
        tags=tags[0],
        tag_scores=tags[1],
    )


# --- the whole job ----------------------------------------------------------------------------------------------------


def job(options: argparse.Namespace) -> dict[str, Any]:
    """The main job through Ray, S3 and Lance, start-up left out."""
    from clipmill.jobs.running import dispatch, embed
    from clipmill.jobs.running.options import Options

    server_cpu_s, used_s = _cpu_s(options.server_pid), 0.0
    run = dispatch.Dispatcher.run

    def counted(self: dispatch.Dispatcher, on_tick: Callable[[], None] = lambda: None) -> None:
        nonlocal used_s
        before_s = _tree_cpu_s()
        run(self, on_tick)
        used_s = _tree_cpu_s() - before_s

    dispatch.Dispatcher.run = counted  # type: ignore[method-assign]
    summary = embed.run(job_of(options, f"job_{os.getpid()}"), Options(num_cpus=options.threads))
    assert not summary.failed_units, summary
    return {
        "samples": summary.seen,
        "rows": summary.rows,
        "samples_per_s": summary.samples_per_s,
        "with_index_samples_per_s": round(summary.seen / (summary.seconds - summary.startup_s), 2),
        "startup_s": summary.startup_s,
        "first_rows_s": summary.first_rows_s,
        "limited_by": summary.limited_by,
        "cpu_ms_per_sample": 1000 * used_s / summary.seen,
        # Of the whole run, start-up included: a little more than the work took.
        "server_cpu_ms_per_sample": 1000 * (_cpu_s(options.server_pid) - server_cpu_s) / summary.seen,
    }


def _tree_cpu_s() -> float:
    """CPU seconds so far of this process and all below it: the driver, Ray's own processes, the workers."""
    import psutil

    me = psutil.Process()
    return sum(_cpu_s(process.pid) for process in (me, *me.children(recursive=True)))


def _cpu_s(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"stages": stages, "job": job}


# --- rounds -----------------------------------------------------------------------------------------------------------


def bound(one: dict[str, Any], cores: int, *, server_cpu_ms: float = 0.0) -> float:
    """Samples/s that `cores` could do if nothing but the stages' own CPU time counted, or the wire if that is less."""
    cpu_ms = sum(one[stage]["cpu_ms_per_sample"] for stage in STAGES) + server_cpu_ms
    return min(1000 * cores / cpu_ms, one["read"]["samples_per_s"])


def summarise(rounds: list[dict[str, Any]], cores: int) -> dict[str, Any]:
    shares, with_server, cpu_shares = [], [], []
    for one in rounds:
        rate = one["job"]["samples_per_s"]
        shares.append(rate / bound(one["stages"], cores))
        server = one["job"]["server_cpu_ms_per_sample"]
        with_server.append(rate / bound(one["stages"], cores, server_cpu_ms=server))
        alone_ms = sum(one["stages"][stage]["cpu_ms_per_sample"] for stage in STAGES)
        cpu_shares.append(alone_ms / one["job"]["cpu_ms_per_sample"])
    return {
        "stages": {
            stage: {
                key: round(median(one["stages"][stage][key] for one in rounds), 3)
                for key in ("samples_per_s", "cpu_ms_per_sample")
            }
            for stage in STAGES
        },
        "bound_samples_per_s": round(median(bound(one["stages"], cores) for one in rounds), 2),
        "job_samples_per_s": round(median(one["job"]["samples_per_s"] for one in rounds), 2),
        "first_rows_s": round(median(one["job"]["first_rows_s"] for one in rounds), 1),
        "startup_s": round(median(one["job"]["startup_s"] for one in rounds), 1),
        "share_of_bound": {"median": round(median(shares), 3), "all": [round(x, 3) for x in shares]},
        "job_cpu_ms_per_sample": round(median(one["job"]["cpu_ms_per_sample"] for one in rounds), 2),
        "stages_share_of_job_cpu": {
            "median": round(median(cpu_shares), 3),
            "all": [round(x, 3) for x in cpu_shares],
        },
        "share_of_bound_with_server": {
            "median": round(median(with_server), 3),
            "all": [round(x, 3) for x in with_server],
        },
    }


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
    parser.add_argument("--add", action="store_true", help="add rounds to today's result")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--handed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        vars(options).update(json.loads(options.handed))
        print(json.dumps(STEPS[options.step](options)))
        return 0
    path = machine.dated(options.out.resolve(), "stages") if options.out else None
    result = measure(options, machine.load(path) if path and options.add and path.exists() else None)
    print(json.dumps(result["summary"], indent=1))
    if path:
        machine.save(path, result)
    return 0


def measure(options: argparse.Namespace, result: dict[str, Any] | None) -> dict[str, Any]:
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
            result["rounds"].append({step: in_process(step, options) for step in STEPS})
            result["summary"] = summarise(result["rounds"], options.threads)
            print(json.dumps(result["summary"]["share_of_bound_with_server"]), file=sys.stderr)
    return result


def _server_pid() -> int:
    """The one child that this process has while it only serves."""
    import psutil

    (server,) = psutil.Process().children()
    return int(server.pid)


if __name__ == "__main__":
    sys.exit(main())
