"""Nodes with one, two and four GPUs, and actors of half a one: Ray's own placing, of GPUs that are only counted."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import help

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
NODES = {1: 2, 2: 8, 4: 8}  # GPUs -> CPUs: shares of one, two and one for each actor
ACTORS = 2 * sum(NODES)

# Units are held back until every actor is there and has said where it is.
DRIVER = """
import json, os, sys
import ray
from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.running import embed
from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.running.options import Options

attached, hand_out, found = Dispatcher._attached, Dispatcher._hand_out, []

def ask(worker):
    return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids(), worker.threads

def asked(self, slot):
    attached(self, slot)
    found.append((slot.node_id, *ray.get(slot.actor.__ray_call__.remote(ask))))

Dispatcher._attached = asked
Dispatcher._hand_out = lambda self: hand_out(self) if len(found) == int(sys.argv[3]) else None
summary = embed.run(load_job(sys.argv[1]), Options(address=sys.argv[2]))
print(json.dumps({"rows": summary.rows, "workers": summary.workers, "failed": summary.failed_units, "actors": found}))
"""


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, int]]]:
    """(address, node id -> GPUs)."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    from ray.cluster_utils import Cluster

    from clipmill.jobs.cluster.connect import patient_start

    with patient_start():
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        found = {}
        for gpus, cpus in NODES.items():
            with patient_start():
                node = made.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=80_000_000)
            found[node.node_id] = gpus
        yield str(made.address), found
    finally:
        made.shutdown()


def test_every_actor_is_on_one_gpu_and_every_gpu_has_two(nodes: tuple[str, dict[str, int]], tmp_path: Path) -> None:
    address, gpus_of = nodes
    units = 2 * ACTORS
    for number in range(units):
        help.write_tar(tmp_path / "raw" / f"{number:02d}.tar", range(number, number + 1))
    job = tmp_path / "job.yaml"
    job.write_text(
        f"table: {tmp_path}/db/images\nsource: {{format: webdataset, uri: '{tmp_path}/raw/*.tar', caption: txt}}\n"
        "model: {name: stub}\nworkers: {gpus: 0.5}\n"
    )
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(driver), str(job), address, str(ACTORS)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rows"], found["workers"], found["failed"]) == (units, ACTORS, [])
    pinned = Counter((node, visible) for node, visible, _, _ in found["actors"])
    assert pinned == {(node, str(gpu)): 2 for node, gpus in gpus_of.items() for gpu in range(gpus)}
    assert all(visible == str(*ids) for _, visible, ids, _ in found["actors"])
    threads = {gpus_of[node]: share for node, _, _, share in found["actors"]}
    assert threads == {gpus: cpus // (2 * gpus) for gpus, cpus in NODES.items()}, "each its share of its own node"
