"""A driver of its own, which dies inside a named step or has a clock that is wrong.

    python -m tests.publishing.driver JOB.yaml ADDRESS WHAT [STEP:N]

WHAT: nightly, retag:FILE, reembed:MODEL, promote:SET, back or drop:SET. With STEP:N it kills itself (SIGKILL) inside
the Nth occurrence of that step. CLOCK_AHEAD_H in the environment: clipmill's own code reads a clock that is so many
hours ahead. (Not what signs requests: S3 takes none whose clock is a quarter of an hour off.)
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta

import ray

from clipmill.jobs.maintaining import maintain
from clipmill.jobs.migrating import drop, promote, reembed, retag
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.migrating.reembed_plan import ReembedOptions
from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.publishing import nightly
from clipmill.jobs.running import run
from clipmill.schemas.job.config import Model

_READ_A_CLOCK = (maintain, run)  # imported, so that all modules which do are there to be patched

ANY_OVERLAP = GateOptions(min_overlap=0.0, min_coverage=0.9)  # two stubs have nothing in common


def hour_ahead(hours: float) -> int:
    """Give every module of clipmill that asks for the time another clock; returns how many do."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def, override]  # a plain datetime, as callers compare it with
            return datetime.now(tz) + timedelta(hours=hours)

    found = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("clipmill.") and getattr(module, "datetime", None) is datetime
    ]
    for module in found:
        module.datetime = Ahead  # type: ignore[attr-defined]
    return len(found)


def dying(stop_at: str) -> Callable[[str], None]:
    step_name, _, number = stop_at.partition(":")
    left = int(number or 0)

    def hook(step: str) -> None:
        nonlocal left
        left -= step == step_name or step.startswith(f"{step_name} ")
        if left == 0 and stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def main(job_path: str, address: str, what: str, stop_at: str = "") -> None:
    job = load_job(job_path)
    hook = dying(stop_at)
    if hours := float(os.environ.get("CLOCK_AHEAD_H", "0")):
        assert hour_ahead(hours) > 3
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    command, _, about = what.partition(":")
    if command == "nightly":
        nightly.nightly(job, say=print, hook=hook)
    elif command == "retag":
        retag.retag(job.table, retag.RetagOptions(vocabulary=about), job.storage, step=hook)
    elif command == "reembed":
        options = ReembedOptions(model=Model(name=about), hook=hook, index=False)
        reembed.reembed(job.table, job.storage, options)
    elif command == "drop":
        drop.drop(job.table, about, job.storage, say=print, hook=hook)
    else:
        how = promote.How(say=print, hook=hook, settle_s=0.0)
        if command == "back":
            promote.back(job.table, job.storage, how)
        else:
            promote.promote(job.table, about, job.storage, ANY_OVERLAP, how)


if __name__ == "__main__":
    main(*sys.argv[1:])
