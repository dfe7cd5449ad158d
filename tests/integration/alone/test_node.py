"""The raylet of the cluster that a command started itself dies: one sentence, soon, and what was committed stays."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from clipmill.schemas.errors import EXIT_OTHER
from tests.conftest import heeding
from tests.integration.alone.test_interrupt import SAMPLES, SLOW, UNITS, count, slow_job, wait_for
from tests.integration.conftest import ROOT, Cli, last_json, write_job
from tests.integration.help import problems
from tests.patience import slowness

SENTENCE = (
    "error: Ray's node on this machine died (its raylet was killed or crashed)\nhint: what was committed stays and "
)
HANGING = """
import subprocess, sys, time
import psutil
from clipmill.jobs.cluster import connect as cluster, local_node
local_node._GRACE_S = 1.0
with cluster.connected(None, num_cpus=1):
    (raylet,) = [child for child in psutil.Process().children() if child.name() == "raylet"]
    raylet.kill()
    time.sleep(400)  # an index is built, a call hangs
"""

ENDING = """
import os, signal
import psutil
from clipmill.jobs.cluster import connect as cluster
with cluster.connected(None, num_cpus=1):
    import ray
    (raylet,) = [child for child in psutil.Process().children() if child.name() == "raylet"]
    {}
"""

# Of Ray's processes only those that a run has use of: the others take the cores while the model is loaded.
NOTHING_IDLE = (
    "here = [one for one in psutil.Process().children(recursive=True) if one.name() != 'raylet']; "
    "others = [' '.join(one.cmdline()) for one in here]; "
    "assert not [one for one in others if 'monitor.py' in one or 'ashboard' in one], others"
)

# Ray's agent hears of the end by a pipe that closes a moment before the raylet is a process that has ended.
AGENT_FIRST = (
    "import time; from ray._private import utils, worker; "
    "said = 'Raylet is terminated. Termination is unexpected. Last 20 lines of the Raylet logs:\\n    state-dump'; "
    "utils.publish_error_to_driver('raylet_died', said, gcs_client=worker.global_worker.gcs_client); time.sleep(3)"
)

INTERRUPTED = """
import os, signal
import click, ray
from ray._private import worker
from clipmill.jobs.cli import main as cli
from clipmill.jobs.cluster import connect

class Late:
    def __init__(self, core):
        self.core = core

    def __getattr__(self, name):
        return getattr(self.core, name)

    def shutdown_driver(self):
        self.core.shutdown_driver()
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))  # a moment for Python to heed it

def command():
    with connect.connected(None, num_cpus=1):
        kept = [ray.put(number) for number in range(3)]
        worker.global_worker.core_worker = Late(worker.global_worker.core_worker)

cli.build = lambda: click.Command("x", callback=command)
cli.main()
"""


def children(process: "subprocess.Popen[str]", name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.name().startswith(name)]


def kill_raylet(process: "subprocess.Popen[str]") -> float:
    (raylet,) = children(process, "raylet")
    raylet.send_signal(signal.SIGKILL)
    return time.monotonic()


@pytest.mark.ray
def test_a_command_that_does_not_look_is_ended_with_the_sentence() -> None:
    begun_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == EXIT_OTHER
    assert time.monotonic() - begun_s < 300
    assert done.stderr.startswith(SENTENCE), done.stderr
    assert done.stderr.count("\n") == 2, done.stderr
    assert done.stdout == ""


@pytest.mark.ray
@pytest.mark.parametrize(
    ("happens", "code", "said"),
    [
        ("raylet.kill(); ray.put(bytes(10_000_000))", EXIT_OTHER, 1),  # Ray's own C++ ends us in the call
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, 0),  # the raylet dies of it, but is not the reason
        (NOTHING_IDLE, 0, 0),
        pytest.param(AGENT_FIRST, 0, 0, marks=pytest.mark.slow),
    ],
)
def test_a_command_that_ray_ends_says_the_sentence_once(happens: str, code: int, said: int) -> None:
    """`run` ends when nobody holds stderr: what says the sentence does not outlive the command."""
    program = [sys.executable, "-c", ENDING.format(happens)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code
    assert done.stderr.count("\n") == 2 * said, done.stderr
    assert done.stderr.startswith(SENTENCE * said), done.stderr
    assert done.stdout == ""


@pytest.mark.ray
def test_ctrl_c_while_ray_ends_is_an_interrupt_like_any_other() -> None:
    with heeding(signal.SIGINT):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, cwd=ROOT, timeout=300
        )
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().startswith("error: interrupted\nhint: "), done.stderr
    assert done.stderr.strip().count("\n") == 1, done.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("moment", ["loading", "rows"])
def test_a_node_that_dies_here_is_one_sentence_and_running_again_resumes(cli: Cli, moment: str) -> None:
    made = slow_job(cli.folder)
    file = write_job(cli.folder / "job.yaml", made)
    process = cli.start("embed", str(file), "--json", **SLOW)
    reached: dict[str, Callable[[], bool]] = {
        "loading": lambda: bool(children(process, "ray::EmbedWorke")),
        "rows": lambda: count(cli.folder) > 0,
    }
    wait_for(reached[moment], process)
    soon_s = 20 * slowness()
    killed_s = kill_raylet(process)
    out, err = process.communicate(timeout=300)
    assert time.monotonic() - killed_s < soon_s
    assert process.returncode == EXIT_OTHER
    assert err.count(SENTENCE) == 1, err
    assert not re.search(r"raylet\)|state-dump|Traceback|core_worker", err), err
    assert out == ""
    kept = count(cli.folder)
    if moment == "rows":
        assert 0 < kept < UNITS * SAMPLES
        assert "were committed before this and stay" in err
        assert problems(made) == []

    again = cli.run("embed", str(file), "--json")
    assert again.returncode == 0, again.stderr
    assert (count(cli.folder), last_json(again.stdout)["rows"]) == (UNITS * SAMPLES, UNITS * SAMPLES - kept)
    assert problems(made) == []
