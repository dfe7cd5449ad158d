#!/usr/bin/env bash
# Ray: the deadline of a drain is kept neither by an idle node nor by a busy one.
#
# One would guess: a node that is drained with a deadline, as a spot machine with its notice, takes no new work, is there
#   until the deadline and gone after it.
# What happens: one with nothing on it ends in the moment it is drained. One with an actor takes the deadline as news:
#   it still answers, and is alive in Ray's list, 20 s after it, where this script stops looking.
# Why it matters: a driver that counts nodes loses an idle one of which it was told "you have two minutes"; and one that
#   waits for Ray to take the actor of a drained node away may wait until the machine is really gone.
# Versions: ray 2.60.0, Python 3.11, Linux. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0"
cd "$work"
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - <<'PY'
import logging
import sys
import time

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

NOTICE_S, PREEMPTED = 20, 2

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
nodes = {name: cluster.add_node(num_cpus=1, resources={name: 1}) for name in ("idle", "busy")}
cluster.wait_for_nodes()


@ray.remote(num_cpus=0, resources={"busy": 0.1})
class Worker:
    def ping(self):
        return True


worker = Worker.remote()
ray.get(worker.ping.remote())


def alive():
    there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return {name for name, node in nodes.items() if node.node_id in there}


began = time.monotonic()
for node in nodes.values():
    taken, why = GcsClient(address=cluster.address).drain_node(
        node.node_id, PREEMPTED, "notice", int((time.time() + NOTICE_S) * 1000)
    )
    assert taken, why
while "idle" in alive() and time.monotonic() - began < NOTICE_S:
    time.sleep(0.1)
idle_s = time.monotonic() - began
time.sleep(max(0.0, began + 2 * NOTICE_S - time.monotonic()))
late = alive()
answers = ray.get(worker.ping.remote(), timeout=10)
ray.shutdown()
cluster.shutdown()
print(f"notice: {NOTICE_S} s; the idle node was gone after {idle_s:.1f} s")
print(f"after {2 * NOTICE_S} s alive: {sorted(late)}; the actor on the busy one answers: {answers}")
sys.exit(idle_s > NOTICE_S / 2 or late != {"busy"} or not answers)
PY
