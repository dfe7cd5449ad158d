"""The files of deploy/ and the operating documents say what is true of this version."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.schemas import errors

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def parsed(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return found


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.M))


def test_the_image_has_what_models_of_the_hub_and_serving_need_and_nothing_for_developers() -> None:
    image, everything = locked("deploy/requirements.lock"), locked("requirements.lock")
    extras = project()["project"]["optional-dependencies"]
    names = {kind: {re.split(r"[^A-Za-z0-9_-]", one)[0].lower() for one in extras[kind]} for kind in ("hf", "serve")}
    own = {
        re.split(r"[^A-Za-z0-9_-]", one)[0].lower().replace("_", "-") for one in project()["project"]["dependencies"]
    }
    assert own | names["hf"] | names["serve"] <= set(image)
    assert not set(image) & {"pytest", "ruff", "mypy", "moto", "boto3", "hypothesis", "playwright", "schemathesis"}
    differ = {name for name in set(image) & set(everything) if image[name] != everything[name]}
    assert not differ, "what is tested is what the image has: run `make lock`"


def test_all_nodes_are_of_one_ray() -> None:
    pinned = next(d for d in project()["project"]["dependencies"] if d.startswith("ray["))
    job, cluster = parsed("kubernetes/once/rayjob.yaml"), parsed("kubernetes/standing/raycluster.yaml")
    for spec in (job["spec"]["rayClusterSpec"], cluster["spec"]):
        assert pinned == f"ray[default]=={spec['rayVersion']}"


def test_the_cluster_file_is_one_that_rays_launcher_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = parsed("ray-cluster.yaml")
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_ports_that_run_code_are_not_open_to_the_network() -> None:
    """Ray's dashboard runs what it is sent."""
    compose = parsed("compose.yaml")
    assert any(service.get("ports") for service in compose["services"].values())
    for service in compose["services"].values():
        assert service.get("image") != compose["x-node"]["image"] or service["environment"]["RAY_AUTH_MODE"] == "token"
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


def test_no_file_holds_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(r"AKIA[0-9A-Z]{16}|(secret|token|password)\w*: *[\"']?\w{16,}", path.read_text(), re.I)


def test_the_readme_lists_every_module_and_none_that_is_gone() -> None:
    """By name, or as one of `cli_*.py`; folders by name. Inside folders a module's own first line says what it is."""
    listing = re.split(r"^## Where things are\n|^## Exit codes\n", (ROOT / "README.md").read_text(), flags=re.M)[1]
    parts = re.split(r"^(schemas|workers|jobs|training)/ ", listing, flags=re.M)
    for package, text in zip(parts[1::2], parts[2::2], strict=True):
        if package == "training":
            continue  # what follows it is of no package
        named = set(re.findall(r"[a-z_*]+\.py|[a-z_]+/", text))
        unknown = {name for name in named if not any((ROOT / package).glob(f"**/{name}"))}
        assert not unknown, f"{package}: {unknown}"
        there = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        there |= {
            path.name + "/" for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"
        }
        missing = {name for name in there if not any(fnmatch(name, one) for one in named)}
        assert not missing, f"{package}: {missing}"


def test_the_readme_shows_the_page_and_the_picture_is_small() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert shown == ["docs/page.png"]
    assert 20_000 < (ROOT / shown[0]).stat().st_size < 300_000


def test_the_runbook_explains_every_exit_code() -> None:
    from clipmill.jobs.cli.options import EXIT_INTERRUPTED

    table = (ROOT / "docs/runbook.md").read_text()
    written = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert written == codes | {EXIT_INTERRUPTED}


def test_the_runbook_quotes_messages_as_they_are() -> None:
    """Words of the headings and tables that a person would search for."""
    sources = "\n".join(path.read_text() for folder in ("jobs", "workers") for path in (ROOT / folder).rglob("*.py"))
    for quoted in (
        "is being written by",
        "lost the table's lease",
        "waiting for a worker to load its model",
        "cannot connect to the Ray cluster",
        "which is not the code of this command",
        "workers die while they start",
        "but commits are only proven safe with",
        "its source changed since the plan was made",
        "it stood still for limits.unit_deadline_s",
        "the worker died",
    ):
        assert quoted in (ROOT / "docs/runbook.md").read_text()
        assert quoted in sources, quoted
