"""The two distributions of one tree agree, and nothing is imported that no extra brings."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas import installed

ROOT = Path(__file__).resolve().parents[2]


def project(path: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / path).read_text())
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_-]", requirement)[0]


def test_the_client_is_the_same_code_with_fewer_dependencies() -> None:
    whole, client = project("pyproject.toml"), project("deploy/client.toml")
    for key in ("version", "requires-python", "license", "scripts", "readme"):
        assert client["project"][key] == whole["project"][key], key
    assert client["tool"]["setuptools"] == whole["tool"]["setuptools"]
    bounds = {*whole["project"]["dependencies"], *whole["project"]["optional-dependencies"]["serve"]}
    extras = client["project"]["optional-dependencies"]
    asked = {*client["project"]["dependencies"], *extras["words"], *extras["serve"]}
    assert asked <= bounds, "the bounds of both are the same"
    names = {name_of(one) for one in client["project"]["dependencies"]}
    assert not names & {"ray", "torch", "torchvision", "open_clip_torch", "lancedb", "moto", "fastapi"}


def test_extras_add_to_the_whole_job_and_repeat_nothing() -> None:
    whole = project("pyproject.toml")["project"]
    always = {name_of(one) for one in whole["dependencies"]}
    assert {"serve", "demo", "hf", "dev"} <= set(whole["optional-dependencies"])
    for extra, asked in whole["optional-dependencies"].items():
        assert not {name_of(one) for one in asked} & always, extra


def test_what_is_missing_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(module: str, distribution: str) -> str:
        monkeypatch.setattr(installed, "distribution", lambda: distribution)
        found = installed.not_installed(ModuleNotFoundError("no", name=module), "it")
        assert found is not None
        return str(found)

    assert told("torch.nn", "clipmill-client").endswith("(hint: pip install 'clipmill-client[words]')")
    assert told("torch", "clipmill").endswith("(hint: pip install clipmill)")
    assert told("uvicorn", "clipmill").endswith("(hint: pip install 'clipmill[serve]')")
    assert told("uvicorn", "clipmill-client").endswith("(hint: pip install 'clipmill-client[serve]')")
    other = " in another environment: it holds the files of clipmill-client, which is in this one)"
    assert told("ray", "clipmill-client").endswith(f"(hint: pip install clipmill{other}")
    assert told("moto", "clipmill-client").endswith(f"(hint: pip install 'clipmill[demo]'{other}")
    assert installed.not_installed(ModuleNotFoundError("no", name="clipmill.jobs.nowhere")) is None
    with pytest.raises(AssertionError):
        installed.require("it", "a_module_that_nobody_brings")
