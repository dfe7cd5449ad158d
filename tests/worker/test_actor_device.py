"""A worker that asked for no GPU computes on the CPU, though Ray shows it all GPUs of its node."""

import os
from typing import Any

import pytest
import torch

from clipmill.jobs.cluster.shape import Shape
from clipmill.jobs.running.actors.workforce import Workforce
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.model import ModelSpec
from clipmill.workers import actor
from clipmill.workers.actor import EmbedWorker
from clipmill.workers.origin import origin


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that there are GPUs; whoever takes one fails."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_a_cpu_worker_takes_no_gpu(with_gpus: None) -> None:
    worker = EmbedWorker()
    worker.load(ModelSpec(name="clipmill-tiny", precision="fp32"), 1, 8, origin()[1], device="cpu")
    assert worker.engine.fingerprint.provenance["device"] == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "", "the process that looks for a killing picture would take one"


def test_a_worker_with_a_gpu_takes_it(with_gpus: None) -> None:
    worker = EmbedWorker()
    worker.load(ModelSpec(name="clipmill-tiny", precision="fp32"), 1, 8, origin()[1])
    with pytest.raises((RuntimeError, AssertionError), match=r"(?i)cuda|nvidia"):
        _ = worker.engine
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (1.0, "auto")])
def test_workers_are_told(gpus: float, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Method:
        def remote(self, *args: Any, **named: Any) -> None:
            told.append(named.get("device"))

    class Actor:
        place, load, get_ready, facts = Method(), Method(), Method(), Method()

        def remote(self) -> "Actor":
            return self

    monkeypatch.setattr(actor, "remote_worker", lambda **_: Actor())
    job = JobFile.model_validate({"table": "/t/t", "source": {"format": "files", "uri": "/x/"}})
    shape = Shape(num=1, cpus=1, gpus=gpus, threads=1)
    Workforce(job=job, shape=shape, vocabulary=None, say=print).start()
    assert told == [None, device, None, None]
