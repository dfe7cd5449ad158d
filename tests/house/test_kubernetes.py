"""What stands in deploy/ for Kubernetes, compose and `ray up` fits its schemas, and runs commands that are real."""

import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from clipmill.jobs.cli.main import build
from clipmill.jobs.planning.jobfile import load_job

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("once", "spot", "standing", "serve")
RAY = ("once", "spot", "standing")


@functools.cache
def kustomized(overlay: str) -> str:
    """What `kubectl apply -k` would send."""
    for words in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(words[0]):
            done = subprocess.run([*words, str(KUBERNETES / overlay)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout
    pytest.skip("no overlay can be built: neither kustomize nor kubectl is installed")


def documents(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kustomized(overlay)))


def kinds(overlay: str) -> dict[str, dict[str, Any]]:
    """The last of each kind."""
    return {one["kind"]: one for one in documents(overlay)}


def cluster(overlay: str) -> dict[str, Any]:
    found = kinds(overlay)
    spec: dict[str, Any] = (
        found["RayCluster"]["spec"] if overlay == "standing" else found["RayJob"]["spec"]["rayClusterSpec"]
    )
    return spec


def checked(validate: Path, *paths: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(validate), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_fits_its_schemas(kube_validate: Path, tmp_path: Path, overlay: str) -> None:
    path = tmp_path / f"{overlay}.yaml"
    path.write_text(kustomized(overlay))
    checked(kube_validate, path)


def test_files_that_stand_alone_fit_their_schemas(kube_validate: Path) -> None:
    parts = [p for p in KUBERNETES.rglob("*.yaml") if yaml.safe_load(p.read_text().split("\n---")[0]) is not None]
    whole = [p for p in parts if "apiVersion: kustomize" not in p.read_text() and p.name not in PATCHES_AND_JOBS]
    checked(kube_validate, *whole, DEPLOY / "compose.yaml", DEPLOY / "ray-cluster.yaml")


PATCHES_AND_JOBS = ("from-zero.yaml", "job.yaml")


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_rights_that_they_need_not(overlay: str) -> None:
    found = [pod for one in documents(overlay) for pod in pods(one)]
    assert len(found) == {"once": 3, "spot": 3, "standing": 2, "serve": 1}[overlay]
    for pod in found:
        assert pod["serviceAccountName"] == "clipmill"
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.fullmatch(r"REGISTRY/clipmill@sha256:0{64}", container["image"]), "one place names the image"
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    accounts = kinds(overlay)["ServiceAccount"]
    assert accounts["automountServiceAccountToken"] is False
    assert accounts["imagePullSecrets"]
    mounts = [pod for pod in found if pod.get("automountServiceAccountToken")]
    assert [pod["containers"][0]["name"] for pod in mounts] == (
        ["ray-head"] if overlay in ("spot", "standing") else []
    ), "only the autoscaler beside a head talks to Kubernetes"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keys_of_a_store_come_from_a_secret_that_need_not_be(overlay: str) -> None:
    """But for the pod that only hands the job over."""
    for pod in (pod for one in documents(overlay) for pod in pods(one)):
        (container,) = pod["containers"]
        has = container.get("envFrom") == [{"secretRef": {"name": "clipmill-store", "optional": True}}]
        assert has == (container["name"] != "ray-job-submitter")
        assert "AWS_SECRET_ACCESS_KEY" not in {one["name"] for one in container.get("env", [])}


@pytest.mark.parametrize("overlay", RAY)
def test_nodes_that_are_ended_have_time_to_drain(overlay: str) -> None:
    (group,) = cluster(overlay)["workerGroupSpecs"]
    pod = group["template"]["spec"]
    drain = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert 30 < int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]
    job = kinds(overlay).get("RayJob")
    if job is not None:  # `submit` sets it for jobs of the standing cluster
        assert int(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 30


def command_lines(overlay: str) -> Iterator[list[str]]:
    for one in documents(overlay):
        if one["kind"] == "RayJob":
            yield shlex.split(one["spec"]["entrypoint"])
        for pod in pods(one):
            yield from (c["command"] for c in pod["containers"] if "command" in c)


def parse(words: list[str]) -> click.Context:
    assert words[0] == "clipmill"
    return build().commands[words[1]].make_context(words[1], words[2:], parent=click.Context(build()))


@pytest.mark.parametrize("overlay", ["once", "spot", "serve"])
def test_what_pods_run_is_a_real_command_line(overlay: str) -> None:
    (words,) = command_lines(overlay)
    read = parse(words)
    assert read.params["table" if overlay == "serve" else "address"]


def test_what_compose_runs_is_a_real_command_line() -> None:
    ray = pytest.importorskip("ray.scripts.scripts")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ran = []
    for name, service in services.items():
        words = service["command"] if isinstance(service["command"], list) else shlex.split(service["command"])
        if words[0] == "clipmill":
            parse(words)
        elif words[0] == "ray":
            ray.cli.commands[words[1]].make_context(words[1], words[2:])
        else:
            assert words[0] in ("server", "python"), "MinIO's own, and the bucket's"
        ran.append((name, words[0]))
    assert sorted(first for _, first in ran) == ["clipmill", "python", "ray", "ray", "server"]


def test_what_ray_up_runs_is_a_real_command_line() -> None:
    ray = pytest.importorskip("ray.scripts.scripts")
    file = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    lines = [*file["head_start_ray_commands"], *file["worker_start_ray_commands"]]
    assert len(lines) == 4
    for words in map(shlex.split, lines):
        ray.cli.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("overlay", ["once", "spot"])
def test_the_job_that_is_mounted_is_one_that_can_be_run(overlay: str, tmp_path: Path) -> None:
    found = kinds(overlay)
    (words,) = command_lines(overlay)
    head = cluster(overlay)["headGroupSpec"]["template"]["spec"]
    (mount,), (volume,) = head["containers"][0]["volumeMounts"], head["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    folder, _, name = parse(words).params["job_file"].rpartition("/")
    assert folder == mount["mountPath"]
    (tmp_path / name).write_text(found["ConfigMap"]["data"][name])
    assert load_job(str(tmp_path / name)).workers.gpus == 1


@pytest.mark.parametrize("overlay", RAY)
def test_only_those_who_may_run_code_reach_rays_ports(overlay: str) -> None:
    assert cluster(overlay)["authOptions"] == {"mode": "token"}
    policies = {one["metadata"]["name"]: one["spec"] for one in documents(overlay) if one["kind"] == "NetworkPolicy"}
    policy = policies["clipmill-ray"]
    assert all(rule["from"] for rule in policy["ingress"])
    assert [rule for rule in policy["ingress"] if not rule.get("ports")] == [
        {"from": [{"podSelector": policy["podSelector"]}]}
    ], "all ports, for the pods of Ray clusters alone"
    groups = [cluster(overlay)["headGroupSpec"], *cluster(overlay)["workerGroupSpecs"]]
    assert all(
        policy["podSelector"]["matchLabels"].items() <= g["template"]["metadata"]["labels"].items() for g in groups
    )
    job = kinds(overlay).get("RayJob")
    if job is not None:
        labels = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
        assert {"podSelector": {"matchLabels": labels}} in [one for rule in policy["ingress"] for one in rule["from"]]


def test_the_head_stays_on_demand_and_workers_come_from_nothing_on_spot() -> None:
    for overlay in ("spot", "standing"):
        spec = cluster(overlay)
        assert spec["enableInTreeAutoscaling"]
        (group,) = spec["workerGroupSpecs"]
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
        head = spec["headGroupSpec"]["template"]
        assert head["metadata"]["annotations"] == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
        wanted, refused = (spot_labels(pod) for pod in (group["template"]["spec"], head["spec"]))
        assert {(key, tuple(values)) for key, how, values in wanted if how == "In"} == {
            (key, tuple(values)) for key, how, values in refused if how == "NotIn"
        }
        assert len(wanted) == 4
    budget = kinds("standing")["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 0
    assert budget["selector"]["matchLabels"]["ray.io/cluster"] == kinds("standing")["RayCluster"]["metadata"]["name"]


def spot_labels(pod: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    needed = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [(e["key"], e["operator"], e["values"]) for t in needed["nodeSelectorTerms"] for e in t["matchExpressions"]]


def test_the_standing_cluster_and_a_run_have_the_same_pods() -> None:
    """But for the job that a run's head mounts: what is learnt about one is true of the other."""
    run, standing = cluster("spot"), cluster("standing")
    head = run["headGroupSpec"]["template"]["spec"]
    del head["containers"][0]["volumeMounts"], head["volumes"]
    assert run == standing


def test_the_page_is_reached_at_its_port_and_survives_a_node() -> None:
    found = kinds("serve")
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert container["ports"] == [{"name": "http", "containerPort": int(words[words.index("--port") + 1])}]
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] == "http"
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    budget = found["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert found["Deployment"]["spec"]["replicas"] > budget["minAvailable"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_prometheus_finds_the_pods() -> None:
    monitor = kinds("standing")["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}  # KubeRay's own label
    (policy,) = (
        d["spec"] for d in documents("standing") if d["metadata"]["name"] == "clipmill-ray" and "ingress" in d["spec"]
    )
    ports = [rule["ports"] for rule in policy["ingress"] if "ports" in rule]
    assert [{"port": 8080}] in ports


def test_alerts_ask_for_metrics_that_runs_have() -> None:
    from clipmill.jobs.observing.figures import METRICS

    rules = kinds("standing")["PrometheusRule"]["spec"]["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"\(ray_\)\?(\w+)", rule["expr"])}
    assert len(rules) == 4
    assert {metric.name for metric in METRICS} >= asked
    assert len(asked) > 4


def test_the_head_of_ray_up_may_give_workers_their_role_and_no_other() -> None:
    policy = json.loads((DEPLOY / "aws-head-policy.json").read_text())
    file = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    roles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in file["available_node_types"].items()
    }
    (passing,) = (one for one in policy["Statement"] if one["Action"] == "iam:PassRole")
    assert passing["Resource"] == f"arn:aws:iam::*:role/{roles['gpu']}"
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    assert roles["head"] != roles["gpu"]
    (mounted,) = file["file_mounts"].items()
    assert mounted == ("~/.ray/auth_token", "~/.ray/auth_token")
    assert "--env RAY_AUTH_MODE=token" in file["docker"]["run_options"]
