"""`reembed` beside `embed` over the same shards, in turns; and one row in fifty.

    python -m benchmarks.reembed [--rows 20000] [--turns 3] [--model NAME] [--compacted] [--out benchmarks/results]

Tars of a thousand JPEGs of 256 x 320 (about 23 kB) with captions. A table of the stub model is there; each turn embeds
the tars into a new table with the model, and fills a set of the same model beside the stub's. Both rates are the
commands' own: rows from the first unit handed out to the last commit. CPU seconds are of every process of the cluster
and this one from the command's begin to its end, startup and loading of the model in both: on a machine that does
other things they say more than the rate. `--compacted`: the stub's table is one fragment, as a night leaves it.
"""

import argparse
import io
import json
import logging
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import machine
from tests.build import tar

PER_TAR = 1000
KINDS = 50  # pictures drawn; each picture is one of them with a comment of its own, so that its hash is


def drawn() -> list[bytes]:
    from PIL import Image

    found = []
    for seed in range(KINDS):
        noise_HWC = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise_HWC).resize((320, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def write_tars(folder: Path, rows: int) -> int:
    """Returns bytes."""
    folder.mkdir()
    kinds = drawn()
    for first in range(0, rows, PER_TAR):
        members = []
        for number in range(first, min(first + PER_TAR, rows)):
            name, base = f"{number:08d}", kinds[number % KINDS]
            comment = b"\xff\xfe" + struct.pack(">H", 2 + len(name)) + name.encode()
            members += [(f"{name}.jpg", base[:2] + comment + base[2:])]
            members += [(f"{name}.txt", f"a picture number {number} of something red".encode())]
        (folder / f"{first // PER_TAR:05d}.tar").write_bytes(tar(members))
    return sum(path.stat().st_size for path in folder.iterdir())


class Used:
    """CPU seconds of this process and of all it started, those that ended meanwhile too."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue

    def now_s(self) -> float:
        self._look()
        return sum(self._seen.values())


def timed(used: Used, work: Callable[[], Any]) -> tuple[Any, float]:
    begin_s = used.now_s()
    done = work()
    return done, round(used.now_s() - begin_s, 2)


def make_job(folder: Path, table: str, asked: argparse.Namespace, *, stub: bool = False) -> Any:
    from clipmill.schemas.job.config import JobFile

    return JobFile.model_validate(
        {
            "table": f"{folder}/db/{table}",
            "source": {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"},
            "model": {"name": "stub"} if stub else {"name": asked.model, "pretrained": asked.pretrained},
            "tags": {"vocabulary": "coco"},
            "workers": {"num": 1, "batch_size": asked.batch_size},
        }
    )


def turns(folder: Path, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from clipmill.jobs.migrating.drop import drop
    from clipmill.jobs.migrating.reembed import reembed
    from clipmill.jobs.migrating.reembed_plan import ReembedOptions
    from clipmill.jobs.running.embed import embed
    from clipmill.jobs.table.tables import Tables
    from clipmill.schemas.job.config import Model, Storage

    old = make_job(folder, "old", asked, stub=True)
    embed(old)
    if asked.compacted:
        Tables.at(old.table, old.storage).open().optimize.compact_files(target_rows_per_fragment=100_000)
    used = Used()
    for turn in range(asked.turns):
        job = make_job(folder, f"new{turn}", asked)
        options = ReembedOptions(
            model=Model(name=asked.model, pretrained=asked.pretrained), slug=f"t{turn}", index=False
        )

        def forth(job: Any = job) -> Any:
            return timed(used, lambda: embed(job))

        def again(options: Any = options) -> Any:
            return timed(used, lambda: reembed(old.table, old.storage, options))

        (made, made_cpu_s), (done, done_cpu_s) = (forth(), again()) if turn % 2 == 0 else reversed((again(), forth()))
        assert made.rows == done.rows == asked.rows, (made.rows, done.rows)
        yield {
            "first": "embed" if turn % 2 == 0 else "reembed",
            "embed_per_s": made.samples_per_s,
            "reembed_per_s": done.rows_per_s,
            "ratio": round(done.rows_per_s / made.samples_per_s, 3),
            "embed_cpu_s": made_cpu_s,
            "reembed_cpu_s": done_cpu_s,
            "requests": done.requests,
            "bytes_over_images": round(done.bytes_read / done.image_bytes, 3),
            "load": os.getloadavg()[0],
        }
        drop(old.table, f"t{turn}", Storage(), say=lambda _: None)


def fifty(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One row in fifty lacks the set: what is read for it."""
    from clipmill.jobs.migrating.reembed import reembed
    from clipmill.jobs.migrating.reembed_plan import ReembedOptions
    from clipmill.jobs.table.tables import Tables
    from clipmill.schemas.job.config import Model

    old = make_job(folder, "old", asked, stub=True)
    options = ReembedOptions(model=Model(name="stub:32"), index=False)
    reembed(old.table, old.storage, options)
    rows = Tables.at(old.table, old.storage).open()
    some = sorted(rows.to_table(columns=["id"])["id"].to_pylist())[::50]
    rows.update({"vector__stub_32": "NULL"}, where="id IN (" + ", ".join(f"'{name}'" for name in some) + ")")
    done = reembed(old.table, old.storage, options)
    assert (done.rows, done.left) == (len(some), 0)
    found = {name: getattr(done, name) for name in ("rows", "requests", "bytes_read", "image_bytes")}
    return {**found, "bytes_over_images": round(done.bytes_read / done.image_bytes, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--model", default="clipmill-tiny")
    parser.add_argument("--pretrained")
    parser.add_argument("--batch-size", type=int, default=32, help="the same for both: what is tried out varies")
    parser.add_argument("--compacted", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out.absolute() if asked.out else None
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    found: dict[str, Any] = {
        "at": machine.now(),
        "machine": machine.machine(),
        "rows": asked.rows,
        "model": asked.model,
        "compacted": asked.compacted,
        "turns": [],
    }
    with tempfile.TemporaryDirectory(prefix="reembed-") as scratch:
        folder = Path(scratch)
        found["tar_bytes"] = write_tars(folder / "raw", asked.rows)
        for turn in turns(folder, asked):
            print(json.dumps(turn), flush=True)
            found["turns"].append(turn)
        found["one_in_fifty"] = fifty(folder, asked)
        print(json.dumps(found["one_in_fifty"]), flush=True)
    ray.shutdown()
    if out:
        machine.save(machine.dated(out, "reembed-compacted" if asked.compacted else "reembed"), found)


if __name__ == "__main__":
    main()
