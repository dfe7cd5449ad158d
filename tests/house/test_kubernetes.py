"""What stands in deploy/ for Kubernetes and compose fits their schemas, and runs commands that are real."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from clipmill.jobs.cli.main import build

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", [*MANIFESTS, DEPLOY / "compose.yaml", DEPLOY / "ray-cluster.yaml"], ids=lambda p: p.name
)
def test_it_fits_its_schema(kube_validate: Path, path: Path) -> None:
    command = [sys.executable, str(kube_validate), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec, however deep."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for part in value.values():
            yield from pods(part)
    elif isinstance(value, list):
        for part in value:
            yield from pods(part)


def found() -> list[tuple[str, dict[str, Any]]]:
    return [(p.name, pod) for p in MANIFESTS for one in yaml.safe_load_all(p.read_text()) for pod in pods(one)]


@pytest.mark.parametrize(("name", "pod"), found())
def test_pods_have_no_rights_that_they_need_not(name: str, pod: dict[str, Any]) -> None:
    assert pod["serviceAccountName"] == "clipmill"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in container["image"], "what nodes that come later are made of"
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize(("name", "pod"), found())
def test_nodes_that_are_ended_have_time_to_drain(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    if container["name"] != "ray-worker":
        return
    drain = {one["name"]: one["value"] for one in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    assert 30 < int(drain) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("name", "pod"), found())
def test_what_containers_run_is_a_real_command_line(name: str, pod: dict[str, Any]) -> None:
    for container in pod["containers"]:
        words = container.get("command", [])
        if words:
            assert words[0] == "clipmill"
            command = build().commands[words[1]]
            command.make_context(words[1], words[2:], parent=click.Context(build()))


def test_only_those_who_may_run_code_reach_rays_ports() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay" / "raycluster.yaml").read_text()))
    kinds = {one["kind"]: one for one in documents}
    assert kinds["RayCluster"]["spec"]["authOptions"] == {"mode": "token"}
    policy = kinds["NetworkPolicy"]["spec"]
    assert all(rule["from"] for rule in policy["ingress"])
    assert [rule for rule in policy["ingress"] if not rule.get("ports")] == [
        {"from": [{"podSelector": policy["podSelector"]}]}
    ], "all ports, for the cluster's own pods alone"


def test_the_head_stays_and_workers_come_from_nothing() -> None:
    documents = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kuberay" / "raycluster.yaml").read_text())}
    spec = documents["RayCluster"]["spec"]
    assert spec["enableInTreeAutoscaling"]
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0]
    head = spec["headGroupSpec"]["template"]["metadata"]
    assert head["annotations"] == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    budget = documents["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 0
    assert budget["selector"]["matchLabels"]["ray.io/cluster"] == documents["RayCluster"]["metadata"]["name"]
