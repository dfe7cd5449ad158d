"""A Ray cluster of our own: a head with a dashboard and a token, and raylets that come and go."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "a-token-of-the-tests-0123456789abcdef"
_START_S = 180.0
# `ray`, but that the raylet is told its agent's port, as `connect.patient_start` does for our own nodes: it ends itself
# where it has to wait for the port for 15 s, as on a busy machine.
_PATIENT_RAY = """
import sys
from ray._private import services
from ray.scripts.scripts import main

start_process = services.start_ray_process
(port,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--dashboard-agent-listen-port=")]

def patient(command, *args, **kwargs):
    if command[0] == services.RAYLET_EXECUTABLE:
        command = [*command, f"--dashboard_agent_listen_port={port}"]
    return start_process(command, *args, **kwargs)

services.start_ray_process = patient
main()
"""


def free_ports(count: int) -> list[int]:
    """Below those that the system hands out by itself."""
    from clipmill.jobs.cluster.connect import _free_ports

    return _free_ports(count)


@dataclass(kw_only=True)
class Head:
    folder: Path
    port: int
    dashboard: int
    client: int
    nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        """Of nodes: `python` is ours, and no key or address of the tests' machine is known to them but the token."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        mine = {"PATH": path, "RAY_TMPDIR": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(self.folder)}
        return {**kept, **token, **mine, "RAY_raylet_start_wait_time_s": "180"}

    def start(self, *words: str, **more: str) -> "subprocess.Popen[bytes]":
        """`ray start --block` with these words; ends with the tests."""
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        names += ("metrics-export-port", "node-manager-port", "object-manager-port")
        given = [f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
        program = self.folder / "ray"
        program.write_text(_PATIENT_RAY)
        command = [sys.executable, str(program), "start", "--block", "--object-store-memory=100000000"]
        with open(self.folder / f"node{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                [*command, *given, *words], env={**self.environment, **more}, cwd=self.folder, stdout=log, stderr=log
            )
        self.nodes.append(node)
        return node

    def start_head(self, *words: str, **more: str) -> None:
        """The first node, without a CPU."""
        self.start(
            "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--num-cpus=0", "--num-gpus=0",
            f"--ray-client-server-port={self.client}", f"--temp-dir={self.folder}", *words, **more,
        )  # fmt: skip

    def worker(self, **more: str) -> "subprocess.Popen[bytes]":
        """With one CPU; `more`: of its environment."""
        return self.start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--num-gpus=0", **more)

    def alive(self) -> int:
        """Nodes that the head counts as alive, itself among them."""
        with self.asked("/nodes?view=summary") as answer:
            found = json.loads(answer.read())["data"]["summary"]
        return sum(one["raylet"].get("state") == "ALIVE" for one in found)

    def asked(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        return urllib.request.urlopen(request, timeout=20)

    def wait_for_nodes(self, count: int) -> None:
        until_s = time.monotonic() + _START_S
        while (alive := self.alive()) < count:
            said = [path.read_text() for path in sorted(self.folder.glob("node*.log"))]
            ended = [number for number, node in enumerate(self.nodes) if node.poll() is not None]
            assert time.monotonic() < until_s, (alive, "\n".join(said))
            assert not ended, (ended, "\n".join(said))
            time.sleep(0.5)


@contextmanager
def head() -> Iterator[Head]:
    """A head without CPUs, up and answering. Everything is ended and removed afterwards."""
    with no_head_yet() as made:
        made.start_head("--dashboard-host=127.0.0.1")
        _wait_for(made)
        yield made


@contextmanager
def no_head_yet() -> Iterator[Head]:
    """Its folder and ports; all that is started is ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cm", dir="/tmp"))  # short: Ray puts sockets there
    port, dashboard, client = free_ports(3)
    made = Head(folder=folder, port=port, dashboard=dashboard, client=client)
    try:
        yield made
    finally:
        for node in reversed(made.nodes):
            end(node)
        shutil.rmtree(folder, ignore_errors=True)


def end(node: "subprocess.Popen[bytes]") -> None:
    """Ray's own end of a node, which takes its processes along; what is left of them is killed."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        mine = psutil.Process(node.pid).children(recursive=True)
        node.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            node.wait(15)
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    node.kill()
    node.wait()


def _wait_for(made: Head) -> None:
    until_s = time.monotonic() + _START_S
    request = urllib.request.Request(f"{made.url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
    while time.monotonic() < until_s:
        assert made.nodes[0].poll() is None, (made.folder / "node0.log").read_text()
        with suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"no dashboard within {_START_S} s: {(made.folder / 'node0.log').read_text()}")


def kill(node: "subprocess.Popen[bytes]") -> None:
    """As a machine goes that loses its power."""
    import psutil

    for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
