"""One to eight actors with a fixed time per unit: how much of the ideal rate does a run reach?

    python -m benchmarks.actors [--workers 1 2 4 8] [--units 20] [--out benchmarks/results]

The stub sleeps for every picture, and an actor has one thread, so that it does 1 / PICTURE_S pictures a second whatever
the machine has cores. What is missing to that, times the actors, is dispatch, receipts and commits, and the end of the
run, where some actors have nothing left. `units` is per actor. Counted from the first actor that is ready, as the
summary counts (`of_ideal`); and by the seconds that actors were ready (`of_worker_s`), which leaves out that eight
processes start one after another on few cores.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.build import picture, tar

PICTURES, PICTURE_S = 5, 0.4


def source(folder: Path, units: int) -> str:
    folder.mkdir()
    for number in range(units):
        members = [(f"{number:04d}{one}.jpg", picture(number * PICTURES + one)) for one in range(PICTURES)]
        (folder / f"{number:04d}.tar").write_bytes(tar(members))
    return f"{folder}/*.tar"


def measure(folder: Path, workers: int, units: int) -> dict[str, Any]:
    """On the cluster of this process."""
    from clipmill.jobs.running import embed
    from clipmill.schemas.job.config import JobFile

    job = JobFile.model_validate(
        {
            "table": f"{folder}/db{workers}/images",
            "source": {"format": "webdataset", "uri": source(folder / f"raw{workers}", units * workers)},
            "model": {"name": "stub"},
            "workers": {"num": workers, "cpus": 1},
        }
    )
    summary = embed.embed(job)
    ideal = 1 / PICTURE_S
    return {
        "workers": summary.workers,
        "units": summary.units,
        "samples_per_s": summary.samples_per_s,
        "of_ideal": round(summary.samples_per_s / (workers * ideal), 3),
        "of_worker_s": round(summary.seen / summary.worker_s / ideal, 3),
        "attempts_failed": summary.attempts_failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results").absolute())
    asked = parser.parse_args()
    os.environ["CLIPMILL_STUB_SLEEP_MS"] = str(PICTURE_S * 1000)
    from clipmill.jobs.cluster import connect as cluster

    with tempfile.TemporaryDirectory() as folder, cluster.connected(None, num_cpus=max(asked.workers)):
        found = [measure(Path(folder), workers, asked.units) for workers in asked.workers]
    result = {"at": machine.now(), **machine.machine(), "unit_s": PICTURES * PICTURE_S, "runs": found}
    machine.save(machine.dated(asked.out, "actors"), result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
