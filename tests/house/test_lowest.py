"""Each direct dependency has a lower bound, and `make lowest` runs on those bounds."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
# Of the extras `hf` and `otel`, which `dev` does not bring.
OF_NO_TEST = ("transformers", "sentencepiece", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


def asked() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    every = map(Requirement, [*project["dependencies"], *(one for extra in extras for one in extra)])
    return {plain(one.name): one for one in every if one.name != project["name"]}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bound(requirement: Requirement) -> Version | None:
    found = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")]
    return found[0] if found else None


def without() -> set[str]:
    lines = (ROOT / "tests/lowest-without.txt").read_text().splitlines()
    return {plain(line) for line in lines if not line.startswith("#")}


def pinned() -> dict[str, Version]:
    found = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "tests/lowest.lock").read_text(), re.M)
    return {name: Version(version) for name, version in found}


def test_every_direct_dependency_has_a_lower_bound() -> None:
    assert not [name for name, one in asked().items() if bound(one) is None]


def test_the_lowest_environment_is_of_those_bounds() -> None:
    """To the second number: of 8.4 that may be 8.4.1, where 8.4.0 was taken back."""
    pins = pinned()
    for name, one in asked().items():
        if name in OF_NO_TEST:
            continue
        if name in without():
            assert name not in pins, name
            continue
        low = bound(one)
        assert low is not None
        assert low <= pins[name], name
        assert pins[name].release[:2] == (*low.release, 0)[:2], f"{name}: `make lock` pins the lowest versions anew"


def test_what_is_left_out_of_it_is_a_dependency() -> None:
    assert without() <= set(asked())
