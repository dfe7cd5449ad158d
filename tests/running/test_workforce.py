"""Of several workers that load a model, whose end is the run's end. No cluster."""

from typing import Any

import pytest
import ray

from clipmill.jobs.cluster.shape import Shape
from clipmill.jobs.running.actors import workforce as module
from clipmill.jobs.running.actors.workforce import Recruit, Workforce
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.unit.tasks import WorkerFacts
from tests.committed import FINGERPRINT

LIVES = WorkerFacts(fingerprint_json=FINGERPRINT.to_json(), batch_size=1, callers=1, device="cpu", threads=1)
DIES = ray.exceptions.RayError("The worker died unexpectedly: out of memory")
NODE_GOES = ray.exceptions.NodeDiedError("its node has died")
UNREACHABLE = ray.exceptions.ActorUnavailableError("its socket closed", b"0" * 16)


class Answering(Workforce):
    """Its actors answer in their order; one that is started anew lives."""

    def _first_answer(self) -> Recruit:
        return self.recruits[0]

    def _recruit(self) -> Recruit:
        self.recruits.append(Recruit(actor=None, placed=None, facts=LIVES))
        return self.recruits[-1]


def loading(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Answering:
    def answered(said: Any) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(module, "_unwrapped", answered)
    job = JobFile.model_validate({"table": "/t/t", "source": {"format": "files", "uri": "/x/"}})
    force = Answering(job=job, shape=Shape(num=1, cpus=1, gpus=0, threads=1), vocabulary=None, say=print)
    force.recruits = [Recruit(actor=None, placed=None, facts=answer) for answer in answers]
    return force


@pytest.mark.parametrize(
    ("answers", "left"),
    # Four on one node, or that were given a place on it before Ray noticed: more than a unit has attempts.
    [((NODE_GOES,), 1), ((UNREACHABLE,), 1), ((NODE_GOES, LIVES), 2), ((DIES, LIVES), 1), ((NODE_GOES,) * 4, 4)],
)
def test_another_ones_facts_are_taken_and_only_a_lost_node_is_made_up_for(
    answers: tuple[Any, ...], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force = loading(monkeypatch, *answers)
    force.wait_for_facts()
    assert force.fingerprint == FINGERPRINT
    assert len(force.recruits) == left


@pytest.mark.parametrize("answers", [(DIES,), (DIES, DIES), (DIES,) * 9, (NODE_GOES, DIES, DIES, DIES)])
def test_where_nobody_lives_the_run_ends_with_the_workers_own_words(
    answers: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClipmillError, match="died while it loaded the model: The worker died unexpectedly"):
        loading(monkeypatch, *answers).wait_for_facts()


def test_nodes_that_go_are_made_up_for_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    force = loading(monkeypatch, *[NODE_GOES] * 40)
    with pytest.raises(ClipmillError, match="its node has died") as error:
        force.wait_for_facts()
    assert "memory" not in error.value.hint, "it was no fault of the model's"
    assert len(force.recruits) > 30


def test_a_worker_that_is_killed_for_memory_is_no_lost_node(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "1 worker(s) were killed due to the node running low on memory."  # Ray's own words, with `node` in them
    with pytest.raises(ClipmillError, match="a worker died while it loaded the model: 1 worker") as error:
        loading(monkeypatch, ray.exceptions.OutOfMemoryError(said)).wait_for_facts()
    assert "memory" in error.value.hint
