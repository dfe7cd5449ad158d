"""A head that starts raylets on this machine as they are asked for, and ends them when they are idle: Ray's own
autoscaler with its provider for tests.

Not by `ray.cluster_utils.AutoscalingCluster`: that begins and ends with `ray stop --force`, which ends every Ray of the
machine, and reads an example file that Ray's wheel does not have (2.60).
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.head import Head, no_head_yet

_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


@contextmanager
def growing_head(types: dict[str, dict[str, Any]], *, idle_s: float = 6.0, **environment: str) -> Iterator[Head]:
    """`types`: name -> {resources, max_workers}; none is up at the start. `environment`: of nodes that come."""
    mine = {
        "RAY_AUTH_MODE": "disabled",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
    }
    with no_head_yet() as made:
        config = made.folder / "autoscaling.json"
        config.write_text(json.dumps(_config(types, made.port, idle_s)))
        made.start_head("--include-dashboard=false", f"--autoscaling-config={config}", **mine, **environment)
        _wait_for(made)
        yield made


def _wait_for(made: Head) -> None:
    log, until_s = made.folder / "node0.log", time.monotonic() + 240
    while "Ray runtime started" not in log.read_text():
        assert made.nodes[0].poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(0.5)


def _config(types: dict[str, dict[str, Any]], port: int, idle_s: float) -> dict[str, Any]:
    """As Ray's tests have it."""
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "growing",
        "max_workers": 8,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": _HEAD_ID,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": head,
            **{name: {"node_config": {}, "min_workers": 0, **one} for name, one in types.items()},
        },
        "head_node_type": "ray.head.default",
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def run(made: Head, program: list[str], **environment: str) -> "subprocess.Popen[str]":
    """A driver of this cluster, which has no tokens; one of another cluster lies in the home folder."""
    (made.folder / ".ray").mkdir(exist_ok=True)
    (made.folder / ".ray" / "auth_token").write_text("a-token-of-another-cluster-0123456789abcdef")
    env = {**os.environ, "HOME": str(made.folder), **environment}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        env.pop(name, None)
    return subprocess.Popen(
        program, env=env, cwd=made.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
