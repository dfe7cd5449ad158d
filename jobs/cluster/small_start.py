"""A Ray node for one driver, without what only a cluster or its dashboard has use of.

Beside its store and scheduler Ray 2.60 starts an autoscaler, a server for the dashboard's questions (with
`include_dashboard=False` too), a reader of logs that we do not show, an agent that reports to that server, and as many
idle workers as there are CPUs. All import Python's half of Ray just when the driver and its worker import the model's
code, and on two cores that is half of all that is computed until the first rows (docs/speed.md). Ray has no option for
any of them. What prepares runtime environments stays, because `uv run` asks for one.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_LEFT_OUT = ("start_monitor", "start_log_monitor", "start_api_server")
# The raylet starts one, and ends with it: this does nothing for as long as the raylet is there.
_IDLE_AGENT = "import os, time; up = os.getppid()\nwhile os.getppid() == up: time.sleep(1)"


@contextlib.contextmanager
def small_start() -> Iterator[None]:
    """Around a `ray.init` that starts a node here."""
    from ray._private import node, services, utils

    kind: Any = node.Node
    kept = {name: getattr(kind, name) for name in _LEFT_OUT}
    start_process, can_have_dashboard = services.start_ray_process, utils.get_dashboard_dependency_error

    def smaller(command: list[str], *args: Any, **kwargs: Any) -> Any:
        if command[0] == services.RAYLET_EXECUTABLE:
            command = [_smaller(word) for word in command]
        return start_process(command, *args, **kwargs)

    for name in _LEFT_OUT:
        setattr(kind, name, _nothing)
    services.start_ray_process = smaller
    # Imports a web server here to find out whether the agent that is left out could run: a third of a second.
    utils.get_dashboard_dependency_error = _nothing
    try:
        yield
    finally:
        services.start_ray_process, utils.get_dashboard_dependency_error = start_process, can_have_dashboard
        for name, method in kept.items():
            setattr(kind, name, method)


def _smaller(word: str) -> str:
    """A word of the raylet's command line."""
    if word.startswith("--dashboard_agent_command="):
        return word.partition("=")[0] + "=" + subprocess.list2cmdline([sys.executable, "-I", "-S", "-c", _IDLE_AGENT])
    if word.startswith("--num_prestart_python_workers="):
        return word.partition("=")[0] + "=1"
    return word


def _nothing(*_: Any, **__: Any) -> None:
    pass
