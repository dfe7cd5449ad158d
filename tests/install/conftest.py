"""Environments as users have them, made by uv from its cache: real installations, without a network.

Where the cache lacks a package (another machine's cache, `make install` by pip) the test is skipped and says so.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
NOT_CACHED = ("network was disabled", "not found in the cache", "no usable wheels", "offline")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make wheels` fills."""
    if UV is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "deploy" / "wheels.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def install(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder `bin` of an environment with nothing but `clipmill[...]` or `clipmill-client[...]`."""
    made: dict[str, Path] = {}

    def environment(what: str) -> Path:
        if what not in made:
            folder = tmp_path_factory.mktemp("env")
            name, _, extras = what.partition("[")
            (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
            requirement = f"{name}{'[' if extras else ''}{extras} @ {wheel.as_uri()}"
            lock = ["-c", str(ROOT / "requirements.lock")]
            uv("venv", "--quiet", "--python", sys.executable, str(folder))
            uv("pip", "install", "--quiet", "--python", str(folder / "bin/python"), *lock, requirement)
            made[what] = folder / "bin"
        return made[what]

    return environment


def uv(*arguments: str) -> None:
    assert UV is not None
    done = subprocess.run([UV, "--offline", *arguments], capture_output=True, text=True, check=False)
    said = " ".join(done.stderr.split())
    if done.returncode and any(word in said.lower() for word in NOT_CACHED):
        pytest.skip(f"not in uv's cache: {said[:300]}")
    assert done.returncode == 0, said


def strangers_folder(folder: Path) -> Path:
    """A project that has its own `jobs`, `schemas` and `workers`, as most data teams do; importing one fails."""
    for name in ("jobs", "schemas", "workers"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('the folder of a stranger')\n")
    return folder


def called(*command: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """As a person's shell does it: nothing of this process's Python path reaches the command."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280)
