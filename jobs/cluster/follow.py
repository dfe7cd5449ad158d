"""The log of a job on a cluster, as it comes, and the code that its driver ends with."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from clipmill.jobs.cluster.dashboard import details, told
from clipmill.jobs.cluster.submit import Job, as_job
from clipmill.schemas.errors import ClipmillError

_TRIES = 10
_PAUSE_S = 3.0
_STATUS_S = 60.0  # the status comes after the log's end


def follow(client: Any, address: str, submission: str, show: Callable[[str], None]) -> Job:
    """Show the log from its beginning until the job has ended. A lost connection is taken up where it broke. Raises
    KeyboardInterrupt on Ctrl-C, with which the job has nothing to do."""
    seen = 0
    failed = 0
    while True:
        before = seen
        try:
            seen = asyncio.run(_tail(client, submission, seen, show))
            break
        except _Lost as error:
            seen = error.seen
            failed = 0 if seen > before else failed + 1
            if failed > _TRIES:
                raise ClipmillError(
                    f"the connection to {address} is lost; {submission} goes on there",
                    f"to come back: clipmill jobs {submission} --address {address} --follow",
                ) from None
            time.sleep(_PAUSE_S)
    until_s = time.monotonic() + _STATUS_S
    with told(address):
        while not (job := as_job(details(client, address, submission))).ended and time.monotonic() < until_s:
            time.sleep(0.2)
    return job if job.ended else follow(client, address, submission, lambda text: None)


class _Lost(Exception):
    def __init__(self, seen: int) -> None:
        super().__init__(seen)
        self.seen = seen


async def _tail(client: Any, submission: str, seen: int, show: Callable[[str], None]) -> int:
    """Show what comes after the first `seen` characters; returns how many there were."""
    import aiohttp

    position = 0
    try:
        async for text in client.tail_job_logs(submission):
            position += len(text)
            if position > seen:
                show(text[-(position - seen) :])
                seen = position
    except (RuntimeError, OSError, aiohttp.ClientError):
        raise _Lost(seen) from None
    return seen


def exit_code(job: Job) -> int:
    """Of a command that followed `job`: the driver's own."""
    if job.exit_code is not None:
        return job.exit_code
    return {"SUCCEEDED": 0, "STOPPED": 130}.get(job.status, 1)
