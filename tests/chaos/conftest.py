"""One cluster for all chaos tests: a head that runs nothing and nodes whose raylets can be killed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from clipmill.jobs.cluster.connect import patient_start
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import count_rejects
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Storage
from tests.build import picture, tar

ROOT = Path(__file__).resolve().parents[2]
UNITS, SAMPLES = 40, 12
END_S = 400.0  # a driver takes some seconds; one that hangs is what this is for
WORKERS = 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """CHAOS_SEEDS: random seeds per kind of kill, 2 unless said."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(int(os.environ.get("CHAOS_SEEDS", "2"))))


@dataclass
class Cluster:
    """A real cluster on this machine: raylets are processes of their own, and are killed with SIGKILL."""

    cluster: Any
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def grow(self) -> None:
        with patient_start():
            self.nodes.append(self.cluster.add_node(num_cpus=2))

    def actors(self) -> list[psutil.Process]:
        """Processes of the jobs' actors on this cluster: raylets are their parents."""
        found = []
        for node in self.nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children():
                with contextlib.suppress(psutil.Error):
                    if (process.cmdline() or [""])[0].startswith("ray::EmbedWorker"):
                        found.append(process)
        return found

    def kill_a_raylet(self, rng: random.Random) -> None:
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        raylet = node.all_processes["raylet"][0].process
        os.kill(raylet.pid, signal.SIGKILL)
        raylet.wait()
        self.cluster.worker_nodes.discard(node)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # as `jobs.cluster.connect`, for a busy machine
    from ray.cluster_utils import Cluster as RayCluster

    with patient_start():
        made = Cluster(RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
    made.grow()
    made.grow()
    yield made
    made.cluster.shutdown()


@dataclass
class Scene:
    """A bucket of small tars with some bad pictures, a job file, and drivers to run it with."""

    folder: Path
    address: str
    log: Path
    expected_rows: int
    expected_rejects: int
    env: dict[str, str]

    @property
    def tables(self) -> Tables:
        return Tables.at(f"{self.folder}/db/images", Storage())

    @property
    def go_on(self) -> Path:
        """A driver that was started with it waits for this file."""
        return self.folder / "go-on"

    def start(self, stop_at: str = "", **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver", str(self.folder / "job.yaml"), self.address, str(self.log)]
            + ([stop_at] if stop_at else []),
            cwd=ROOT,
            env={**os.environ, **self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self) -> list[str]:
        if not self.log.exists():
            return []
        return [line.split(" ", 1)[1] for line in self.log.read_text().splitlines()]

    def wait_for(
        self, event: str, driver: "subprocess.Popen[str]", *, count: int = 1, timeout_s: float = END_S
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while sum(e.startswith(event) for e in self.events()) < count:
            assert time.monotonic() < deadline, f"no '{event}' in {timeout_s} s: {self.events()[-5:]}"
            assert driver.poll() is None, f"the driver ended before '{event}': {driver.communicate()}"
            time.sleep(0.02)

    def finish(self) -> dict[str, Any]:
        """Run to the end, check everything, and give the summary."""
        import json

        driver = self.start()
        out, err = driver.communicate(timeout=END_S)
        assert driver.returncode == 0, (out, err[-3000:])
        self.check()
        return dict(json.loads(out.strip().splitlines()[-1]))

    def check(self) -> None:
        """Nothing lost, nothing twice, every unit balanced."""
        report = verify(f"{self.folder}/db/images", Storage())
        assert report.problems == []
        assert report.units == UNITS
        assert report.rows == self.expected_rows
        assert sum(count_rejects(self.tables).values()) == self.expected_rejects
        ids = self.tables.open().to_table(columns=["id"])["id"].to_pylist()
        assert len(set(ids)) == len(ids) == self.expected_rows


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path) -> Scene:
    while len(cluster.nodes) < 2:
        cluster.grow()
    while len(cluster.nodes) > 2:
        cluster.cluster.remove_node(cluster.nodes.pop())
    source = tmp_path / "source"
    source.mkdir()
    bad = 0
    for number in range(UNITS):
        members = []
        for i in range(SAMPLES):
            broken = (number * SAMPLES + i) % 29 == 7
            bad += broken
            image = b"broken" if broken else picture(number * SAMPLES + i)
            members += [(f"{i:03d}.jpg", image), (f"{i:03d}.txt", f"{number} {i}".encode())]
        (source / f"{number:03d}.tar").write_bytes(tar(members))
    (tmp_path / "job.yaml").write_text(
        f"table: {tmp_path}/db/images\n"
        f"source: {{format: webdataset, uri: '{source}/*.tar', caption: txt}}\n"
        "model: {name: stub}\n"
        "commit: {every_s: 0.3}\n"
        f"workers: {{num: {WORKERS}, cpus: 1}}\n"  # half of the cluster: a suspended driver keeps its actors
        "limits: {unit_deadline_s: 30}\n"
    )
    return Scene(
        folder=tmp_path,
        address=cluster.address,
        log=tmp_path / "events.log",
        expected_rows=UNITS * SAMPLES - bad,
        expected_rejects=bad,
        env={},
    )
