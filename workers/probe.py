"""Find the sample that kills a worker, without losing the worker.

A child process goes through the unit one sample at a time, with its own engine, and names each ordinal on its
standard output before it touches it. Where the child dies, or stops moving, the last name is the culprit. One death
finds one sample; splitting the unit in halves would cost a model load for each of log2(n) deaths.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import clipmill
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.model import ModelSpec
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import BadImage, Sample
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.orientation import stamped

STARTED = -1  # the child's first line, once its model is loaded
START_S = 600.0
_PIPE_BYTES = 65_536


def find_poison(task: Task, context: WorkContext, spec: ModelSpec) -> tuple[int, str] | None:
    """(ordinal, reason) of the first sample that kills or stalls the child; None where it gets through.

    A sample may take as long as a whole unit's deadline.
    """
    with tempfile.TemporaryDirectory(prefix="clipmill-probe-") as empty:
        # -P: neither the current folder nor PYTHONPATH's order may put a user's `workers/` before ours.
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, the job on stdin
            [sys.executable, "-P", "-c", _bootstrap()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
        )
        try:
            assert child.stdin is not None
            child.stdin.write(_encode(task, context, spec).encode())
            child.stdin.close()
            return _watch(child, context.limits.unit_deadline_s)
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _bootstrap() -> str:
    root = str(Path(clipmill.__file__).absolute().parents[1])
    return f"import sys; sys.path.insert(0, {root!r}); from clipmill.workers.probe import main; main()"


def _watch(child: "subprocess.Popen[bytes]", sample_deadline_s: float) -> tuple[int, str] | None:
    """Reads the pipe itself: a line kept in a buffer would be no reason for `select` to wake up."""
    assert child.stdout is not None
    last: int | None = None
    rest = b""
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    with selector:
        while True:
            if not selector.select(START_S if last is None else sample_deadline_s):
                return (last, Reason.TIMED_OUT) if last is not None and last != STARTED else None
            said = os.read(child.stdout.fileno(), _PIPE_BYTES)
            if said:
                *lines, rest = (rest + said).split(b"\n")
                last = int(lines[-1]) if lines else last
                continue
            if child.wait() < 0 and last is not None and last != STARTED:  # ended by a signal
                return last, Reason.KILLED_WORKER
            return None


def _encode(task: Task, context: WorkContext, spec: ModelSpec) -> str:
    return json.dumps(
        {
            "unit": asdict(task.unit),
            "skip": {str(k): v for k, v in task.skip.items()},
            "source": context.source.model_dump(mode="json", by_alias=True),
            "storage": context.storage.model_dump(mode="json"),
            "limits": context.limits.model_dump(mode="json"),
            "thumbnails": context.thumbnails,
            "phash": context.phash,
            "spec": asdict(spec),
            "fill": context.fill,
            "options": context.options,
        }
    )


def main() -> None:
    """The child: decode and embed every sample alone, write nothing."""
    from clipmill.workers.load import load_engine

    job: dict[str, Any] = json.loads(sys.stdin.read())
    out = sys.stdout
    engine = load_engine(ModelSpec(**job["spec"]), threads=1, batch_size=1)
    limits = Limits.model_validate(job["limits"])
    skip = {int(k) for k in job["skip"]}

    def say(ordinal: int) -> None:
        out.write(f"{ordinal}\n")
        out.flush()

    say(STARTED)
    reading = _reading(job, limits)
    samples = (item for item in reading if isinstance(item, Sample))
    for ordinal, sample in enumerate(samples):
        if ordinal in skip:
            continue
        say(ordinal)
        try:
            stamped_image = stamped(sample.image, sample.orientation)
            picture = engine.prepare(stamped_image, limits, thumbnail=bool(job["thumbnails"]), phash=bool(job["phash"]))
        except BadImage:
            continue
        engine.encode_images(picture.pixels_CHW[None])
        if sample.caption is not None:
            engine.encode_texts([sample.caption])


def _reading(job: dict[str, Any], limits: Limits) -> Iterator[Sample | Reject]:
    unit, storage = WorkUnit(**job["unit"]), Storage.model_validate(job["storage"])
    if job["fill"]:
        from clipmill.workers.fill import Fragment
        from clipmill.workers.read.again import read_again

        return read_again(Fragment(unit, job["fill"], job["options"]).rows(), storage, limits)
    from clipmill.workers.read import read_unit

    return read_unit(unit, Source.model_validate(job["source"]), storage, limits)
