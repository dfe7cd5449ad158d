"""Connecting to Ray so that actors get our code. Owner of ray on the driver's side."""

import contextlib
import logging
import os
import random
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clipmill
from clipmill.jobs.cluster import empty_folder, local_node
from clipmill.jobs.cluster.auth import have_token, use_what_the_cluster_asks_for
from clipmill.jobs.cluster.small_start import small_start
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.signals import signals_wait
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.text.secrets import secret_in

_CONNECT_S = 10.0  # to a cluster's address
_PORTS = range(20_000, 32_768)  # Linux hands out 32768 and up by itself, other systems higher ones


@contextlib.contextmanager
def connected(address: str | None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at `address`, or start one here that ends with this process.

    Ray puts the driver's folder on every worker's path ahead of installed packages, so we leave it for an empty one
    first: a user whose folder has a `workers/` or `jobs/` still gets ours.
    """
    if address:
        check_address(address)
    _leave_folder()
    # Quiet: our own progress says what matters, and workers' tracebacks come back with their errors.
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine takes longer than Ray's 30 s
    # Why an actor is gone, its process or its node, Ray knows some 15 s after a node was lost. By default it waits 1 s
    # for that and then says no more than that a socket closed.
    os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "90000")
    with signals_wait():  # inside an import of Cython code they are printed, and lost
        import ray

    if ray.is_initialized():  # a caller's own cluster: theirs to end
        with _prints_on_stderr():
            yield
        return
    if address and address != "local":
        use_what_the_cluster_asks_for(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            have_token()
            with patient_start(), small_start():
                ray.init(address="local", include_dashboard=False, num_cpus=num_cpus, **options)
    except SystemExit:  # Ray takes SIGTERM for itself as it connects, and exits; to us it is what Ctrl-C is
        raise KeyboardInterrupt from None
    except Exception as error:  # noqa: BLE001 - Ray raises bare Exception where its processes do not come up
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        if address:
            raise UserError(
                f"cannot connect to the Ray cluster at {address}: {first_line}",
                "check the address, that the cluster runs Ray 2.60, and its authentication token",
            ) from None
        hint = "free some memory and processor time and try again; Ray's session folder holds its logs"
        if isinstance(error, OSError) and error.filename:
            hint = "set TMPDIR to a folder that can be written to: Ray keeps its session there"
        raise ClipmillError(f"Ray did not start on this machine: {first_line}", hint) from None
    try:
        with _prints_on_stderr() if address else local_node.watched():
            yield
    finally:
        local_node.leave_ray()


def check_address(address: str) -> None:
    """Raises UserError where nobody listens at `host:port` or `ray://host:port`: Ray itself asks for many minutes, and
    lets no signal in meanwhile. `auto`, `local` and the names that plug-ins know are Ray's to read."""
    if what := secret_in(address):
        raise UserError(f"--address carries {what}", "set RAY_AUTH_TOKEN or Ray's token file instead")
    found = re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/\s]+):(\d+)/?", address)
    if found is None:
        if address in ("auto", "local") or "://" in address:
            return
        raise UserError(f"'{address}' is no address of a Ray cluster", "write auto, host:6379 or ray://host:10001")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=_CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot connect to the Ray cluster at {address}: {why}",
            "check the address and that the cluster is up; left out, Ray is started on this machine",
        ) from None


def _prints_on_stderr() -> contextlib.redirect_stdout[Any]:
    """Ray prints what raylets say of dead workers to stdout, where only data belongs; no option keeps it from that."""
    return contextlib.redirect_stdout(lines.stderr_of("ray"))


@contextlib.contextmanager
def patient_start() -> Iterator[None]:
    """Give Ray's agents the time they need to start.

    A raylet of Ray 2.60 dies when its agents do not tell their ports within 15 s, a constant, and on a busy machine
    they take longer (ray-project/ray#65983). Ports that are chosen beforehand are not waited for; one of them only the
    raylet's own command line takes. To be removed when that issue is closed.
    """
    from ray._private import services

    start_raylet, start_process = services.start_raylet, services.start_ray_process
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))

    def with_ports(*args: Any, **kwargs: Any) -> Any:
        return start_raylet(*args, **{**kwargs, **ports})

    def with_flag(command: list[str], *args: Any, **kwargs: Any) -> Any:
        if command[0] == services.RAYLET_EXECUTABLE:
            command = [*command, f"--dashboard_agent_listen_port={ports['dashboard_agent_listen_port']}"]
        return start_process(command, *args, **kwargs)

    services.start_raylet, services.start_ray_process = with_ports, with_flag
    try:
        yield
    finally:
        services.start_raylet, services.start_ray_process = start_raylet, start_process


def _free_ports(count: int) -> list[int]:
    """A port that the system hands out by itself may go to a connection of Ray's own before the agent binds it, and
    the raylet dies a second after the start: these lie below the ones that are handed out."""
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports


def _leave_folder() -> None:
    # Ray starts its processes by fork and exec at once, which is safe; what lance warns of is a fork that runs on.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    old = os.path.realpath(os.getcwd())
    os.chdir(empty_folder.make())
    ours = str(Path(clipmill.__file__).absolute().parents[1])
    sys.path[:] = [p for p in sys.path if p and (os.path.realpath(p) != old or os.path.realpath(p) == ours)]
