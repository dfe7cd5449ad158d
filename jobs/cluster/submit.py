"""Jobs on a cluster that is up, through Ray's Jobs API: submit, find, follow, stop.

A submission is named after table and command with a number at its end; the first of two that come at once gets the
number, and the other follows it. Nothing of this machine's environment is sent: Ray shows everybody what it is given.
"""

import hashlib
import json
import os
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.jobs.cluster import parcel, preflight
from clipmill.jobs.cluster.dashboard import details, image_hint, told
from clipmill.jobs.cluster.sent import Line
from clipmill.schemas.errors import ClipmillError, NoWorkers, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.table_label import table_label

GRACE_S = 90  # Ray's own 3 s are too few for the units in flight, and nothing of them would be committed
_STARTING_S = 180.0  # what Ray may take to unpack the code and start a driver
_POLL_S = 0.5
_NO_AGENT = (
    "no dashboard agent runs on its head: dashboard_agent.log in the logs of Ray's session folder there says why. "
    "Where two clusters share a machine, start one with another --dashboard-agent-listen-port"
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A submission as `jobs` shows it. `exit_code`: the driver's own; None while it runs, or where it had none."""

    id: str
    status: str
    exit_code: int | None
    command: str
    table: str
    started: str
    seconds: float | None
    message: str
    digest: str

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


def as_job(found: Any) -> Job:
    """From Ray's JobDetails."""
    started = (found.start_time or 0) / 1000
    ended = found.end_time / 1000 if found.end_time else time.time()
    meta = found.metadata or {}
    return Job(
        id=found.submission_id,
        status=str(getattr(found.status, "value", found.status)),
        exit_code=found.driver_exit_code,
        command=meta.get("clipmill_command", ""),
        table=meta.get("clipmill_table", ""),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)) if started else "",
        seconds=round(ended - started, 1) if started else None,
        message=found.message or "",
        digest=meta.get("clipmill_job", ""),
    )


def jobs(client: Any, address: str) -> list[Job]:
    """Ours, newest first."""
    with told(address):
        found = [one for one in client.list_jobs() if "clipmill_command" in (one.metadata or {})]
    return [as_job(one) for one in sorted(found, key=lambda one: -(one.start_time or 0))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run there. `wait_s`: for a worker, before exit code 5."""

    job: JobFile
    address: str
    command: str
    line: Line
    wait_s: float

    @property
    def name(self) -> str:
        return f"{table_label(self.job.table)}-{self.command}"

    @property
    def digest(self) -> str:
        """Of the job file's values, the options and the paths of files that these name: whatever a file is called here,
        the words name it as it is called there."""
        asked = (self.job.model_dump_json(), self.line.words, sorted(self.line.files.items()))
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


def submit(client: Any, order: Order, say: Say) -> tuple[Job, bool]:
    """The job, and whether it is a new one: a run of this table and command that is under way is not doubled."""
    mine = [one for one in jobs(client, order.address) if one.id.startswith(f"{order.name}-")]
    for one in mine:
        if not one.ended:
            if one.digest != order.digest:
                say(f"note: {one.id} runs with another job file or other options; when it ends, submit again")
            return one, False
    with tempfile.TemporaryDirectory() as folder:
        for name, path in order.line.files.items():
            shutil.copyfile(path, Path(folder) / name)
        for path in (*parcel.pack(order.job, Path(folder)), *order.line.paths):
            say(f"note: {path} is a path of this machine; every node there has to have it too")
        if order.job.storage.endpoint_url is None and os.environ.get("AWS_ENDPOINT_URL"):
            say("note: AWS_ENDPOINT_URL of this shell is not sent; storage.endpoint_url in the job file is")
        environment = {
            "working_dir": folder,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S), "PYTHONUNBUFFERED": "1"},
        }
        _check_nodes(client, order, environment, say)
        number = 1 + max((int(one.id.rpartition("-")[2]) for one in mine), default=0)
        submission = f"{order.name}-{number}"
        metadata = {"clipmill_command": order.command, "clipmill_table": order.job.table}
        metadata["clipmill_job"] = order.digest
        entrypoint = f"exec python -m clipmill {shlex.join(order.line.words)}"
        is_new = _send(client, order.address, entrypoint, environment, (submission, metadata))
    return as_job(details(client, order.address, submission)), is_new


def _send(
    client: Any, address: str, entrypoint: str, environment: dict[str, Any], named: tuple[str, dict[str, str]]
) -> bool:
    """False where somebody was faster with this name. A head that has just come up takes jobs a little later than it
    answers, which is waited for."""
    from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

    patiently = Retrying(
        retry=retry_if_exception_message(match=".*No available agent"),
        stop=stop_after_delay(_STARTING_S),
        wait=wait_fixed(_POLL_S),
        reraise=True,
    )
    with told(address):
        try:
            patiently(
                client.submit_job,
                entrypoint=entrypoint,
                runtime_env=environment,
                submission_id=named[0],
                metadata=named[1],
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                said = str(error).splitlines()[0][:300].rstrip(". ")
                hint = _NO_AGENT if "No available agent" in said else "its dashboard's log says more"
                raise ClipmillError(f"the cluster at {address} does not take the job: {said}", hint) from None
            return False
    return True


def _check_nodes(client: Any, order: Order, environment: dict[str, Any], say: Say) -> None:
    """Run `preflight` there. Raises UserError where head or workers do not fit, NoWorkers where none comes."""
    gpus = order.job.workers.gpus if order.job.workers.gpus != "auto" else 0
    name = f"{order.name}-check-{uuid.uuid4().hex[:8]}"
    say("checking the versions on a worker")
    entrypoint = f"exec python -m clipmill.jobs.cluster.preflight {order.wait_s:g} {gpus:g}"
    _send(client, order.address, entrypoint, environment, (name, {}))
    try:
        ended = _ended(client, order.address, name, _STARTING_S + order.wait_s)
        with told(order.address):
            log = client.get_job_logs(name) if ended else ""
    finally:
        _forget(client, name)
    if ended is None:
        raise NoWorkers(
            f"the cluster at {order.address} did not start the check within {_STARTING_S + order.wait_s:.0f} s",
            "it may be busy, or its head has no room; try again later",
        )
    lines = [line for line in log.splitlines() if line.startswith(preflight.MARK)]
    if not lines:
        last = (log.strip() or ended.message.strip() or "it said nothing").splitlines()[-1][:300]
        raise UserError(
            f"clipmill does not run on the cluster's head: {last}",
            f"start every node from the image of this clipmill ({image_hint()})",
        )
    found = json.loads(lines[-1].removeprefix(preflight.MARK))
    if found["worker"] is None:
        what = f"a GPU worker ({gpus:g} GPUs)" if gpus else "a worker"
        raise NoWorkers(
            f"the cluster at {order.address} gave {what} no room within {order.wait_s:g} s; nodes: {found['nodes']}",
            "start workers, or wait until they are free, then submit again; --wait-s waits longer",
        )
    if said := preflight.wrong(found):
        raise UserError(
            f"the cluster at {order.address} does not fit: {'; '.join(said)}",
            f"start every node from the image of this clipmill ({image_hint()})",
        )


def _ended(client: Any, address: str, submission: str, within_s: float) -> Job | None:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        job = as_job(details(client, address, submission))
        if job.ended:
            return job
        time.sleep(_POLL_S)
    return None


def _forget(client: Any, submission: str) -> None:
    """The check leaves no trace in the list of jobs; one that still runs is stopped."""
    try:
        client.stop_job(submission)
        client.delete_job(submission)
    except (RuntimeError, OSError):
        pass  # it runs still, or the dashboard went: the next call says so


def stop(client: Any, address: str, submission: str, *, now: bool, say: Say) -> Job:
    """Let the units in flight end and be committed, at most GRACE_S; `now`: leave them. Returns how it ended."""
    job = as_job(details(client, address, submission))
    if job.ended:
        say(f"{submission} had ended before")
        return job
    if job.status == "PENDING":
        raise UserError(
            f"{submission} has not started, and Ray stops no job that waits",
            "it starts, or ends by itself within 15 minutes; stop it then",
        )
    with told(address):
        client.stop_job(submission)
        if now:
            _second_signal(client, address, submission)
    say("stopping" + ("" if now else f"; units in flight get up to {GRACE_S} s"))
    ended = _ended(client, address, submission, GRACE_S + 30)
    if ended is None:
        raise ClipmillError(f"{submission} has not ended within {GRACE_S + 30} s", "look again with `clipmill jobs`")
    return ended


def _second_signal(client: Any, address: str, submission: str) -> None:
    """Ray's API knows no kill. The driver takes a second SIGTERM as a person's second Ctrl-C; drivers run on the head,
    and so does what is submitted for it."""
    driver = details(client, address, submission).driver_info
    if driver is None or not str(driver.pid).isdigit():
        return  # it has not connected, and so has no unit in flight
    name = f"{submission}-now-{uuid.uuid4().hex[:8]}"
    _send(client, address, f"sleep 1; kill -TERM {driver.pid}; sleep 5; kill -KILL {driver.pid}", {}, (name, {}))
    _ended(client, address, name, 30)
    _forget(client, name)
