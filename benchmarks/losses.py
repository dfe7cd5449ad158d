"""200 units through ten node losses and ten joins: is the table balanced, and was anything counted as an attempt?

    python -m benchmarks.losses [--units 200] [--losses 10] [--out benchmarks/results]

A real cluster on this machine: a head without CPUs and three nodes whose raylets are processes of their own. The stub
takes a fixed time for a picture. In turn a node is drained as a spot machine is (Ray's DrainNode with a deadline, at
which it is killed) and killed without a word; each time another one joins. At the end the summary and `verify` have to
agree with what was put in. Exit code 1 where they do not.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.build import picture, tar

NODES, PICTURES, PICTURE_MS, GRACE_S = 3, 4, 500, 10.0
PAUSE_S = 4.0  # between a join and the next loss


class Losing:
    """The cluster. `environment` of its nodes says how slow the stub is."""

    def __init__(self) -> None:
        os.environ["CLIPMILL_STUB_SLEEP_MS"] = str(PICTURE_MS)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
        os.environ["RAY_AUTH_MODE"] = "disabled"  # a token in the home folder is for another cluster
        from ray.cluster_utils import Cluster

        from clipmill.jobs.cluster.connect import patient_start

        with patient_start():
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes: list[Any] = []
        for _ in range(NODES):
            self.join()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self) -> None:
        from clipmill.jobs.cluster.connect import patient_start

        with patient_start():
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000))

    def drain(self) -> None:
        """The oldest: told to go, and gone when its time is over."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        deadline_ms = int((time.time() + GRACE_S) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(self.nodes[0].node_id, 2, "spot", deadline_ms)
        if not accepted:
            raise RuntimeError(f"Ray did not drain the node: {why}")
        time.sleep(GRACE_S)
        self.kill()

    def kill(self) -> None:
        node = self.nodes.pop(0)
        raylet = node.all_processes["raylet"][0].process
        os.kill(raylet.pid, signal.SIGKILL)
        raylet.wait()
        self.cluster.worker_nodes.discard(node)


def job(folder: Path, units: int) -> Path:
    (folder / "raw").mkdir()
    for number in range(units):
        members = [(f"{number:04d}{one}.jpg", picture(number * PICTURES + one)) for one in range(PICTURES)]
        (folder / "raw" / f"{number:04d}.tar").write_bytes(tar(members))
    path = folder / "job.yaml"
    path.write_text(
        f"table: {folder}/db/images\nsource: {{format: webdataset, uri: '{folder}/raw/*.tar'}}\n"
        f"model: {{name: stub}}\ncommit: {{every_s: 2}}\nworkers: {{num: {NODES}, cpus: 1}}\n"
    )
    return path


def measure(folder: Path, units: int, losses: int) -> dict[str, Any]:
    path, made = job(folder, units), Losing()
    command = [sys.executable, "-m", "clipmill", "embed", str(path), "--address", made.address, "--json"]
    log = folder / "run.log"
    started_s, lost = time.monotonic(), {"drained": 0, "killed": 0}
    with log.open("w") as err:
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    while not (folder / "db").exists() and driver.poll() is None:
        time.sleep(0.5)
    while sum(lost.values()) < losses and driver.poll() is None:
        time.sleep(PAUSE_S)
        kind = "killed" if sum(lost.values()) % 2 else "drained"
        (made.kill if kind == "killed" else made.drain)()
        lost[kind] += 1
        made.join()
    out, _ = driver.communicate(timeout=3600)
    found = {"exit_code": driver.returncode, "lost": lost, "seconds": round(time.monotonic() - started_s, 1)}
    if driver.returncode:
        print(log.read_text()[-4000:], file=sys.stderr)
    else:
        summary = json.loads(out.splitlines()[-1])
        names = ("units", "seen", "rows", "failed_units", "worker_restarts", "attempts_failed", "attempts_lost")
        found |= {name: summary[name] for name in (*names, "seconds", "worker_s")}
    from clipmill.jobs.verifying.verify import verify
    from clipmill.schemas.job.config import Storage

    found["problems"] = list(verify(f"{folder}/db/images", Storage()).problems)
    made.cluster.shutdown()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--losses", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results").absolute())
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), asked.units, asked.losses)
    right = {"exit_code": 0, "units": asked.units, "rows": asked.units * PICTURES, "attempts_failed": 0, "problems": []}
    wrong = {name: found.get(name) for name, value in right.items() if found.get(name) != value}
    if sum(found["lost"].values()) < asked.losses:
        wrong["lost"] = "the run ended before the last loss"
    result = {"at": machine.now(), **machine.machine(), "unit_s": PICTURES * PICTURE_MS / 1000, **found, "wrong": wrong}
    machine.save(machine.dated(asked.out, "losses"), result)
    print(json.dumps(result, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
