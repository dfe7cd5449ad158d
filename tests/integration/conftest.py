"""One Ray cluster for all tests of this folder, which run whole jobs in this process and in processes of their own."""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cluster.connect import patient_start
from clipmill.schemas.job.config import JobFile
from tests.conftest import heeding

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def ray_here() -> Iterator[None]:
    """A cluster that `running.embed.run` finds and uses. Its raylet, and so every actor, keeps the environment it began
    with: the keys of the test server are set before it starts. CLIPMILL_TEST_RAY names one that runs already."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("CLIPMILL_S3_ENDPOINT"):
            patch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # as `jobs.cluster.connect`, for a busy machine
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.chdir(ROOT)
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # ray forks and execs at once
        if running := os.environ.get("CLIPMILL_TEST_RAY"):
            ray.init(address=running, **quiet)
        else:
            with patient_start():
                ray.init(address="local", num_cpus=2, include_dashboard=False, **quiet)
    yield
    ray.shutdown()


@pytest.fixture
def here(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder. A run in this process changes the working directory and `sys.path`; both come back after."""
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    yield tmp_path
    sys.path[:] = path


@dataclass
class Cli:
    """`clipmill` as a process of its own, with a Ray cluster of its own."""

    folder: Path
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def command(self, *args: str) -> list[str]:
        """The installed script: its folder, and not the current one, is what Python puts first on the path."""
        return [str(Path(sys.executable).with_name("clipmill")), *args]

    def start(self, *args: str, **env: str) -> "subprocess.Popen[str]":
        """In a process group of its own, so that a signal can reach all of it as Ctrl-C on a terminal does."""
        with heeding(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = subprocess.Popen(
                self.command(*args),
                cwd=self.folder,
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,
            )
        self.started.append(process)
        return process

    def run(self, *args: str, timeout_s: float = 200, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def write_job(path: Path, job: JobFile) -> Path:
    """JSON is YAML."""
    path.write_text(json.dumps(job.model_dump(mode="json", by_alias=True, exclude_defaults=True)))
    return path


def last_json(text: str) -> dict[str, Any]:
    value = json.loads(text.strip().splitlines()[-1])
    assert isinstance(value, dict)
    return value
