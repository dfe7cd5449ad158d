"""A node that is told to leave: no unit more, those in flight end there, and nothing of it is an attempt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cluster import nodes
from clipmill.jobs.running.actors import dispatch
from clipmill.jobs.running.actors.attempts import Item
from clipmill.jobs.running.actors.slots import Slot
from tests.committed import wait_until
from tests.integration import help

pytestmark = pytest.mark.ray


def test_a_leaving_node_gets_no_more_units_and_its_actor_is_replaced(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is told so once two units are on it; the actor that replaces its actor is of a node that stays."""
    handed: list[tuple[Slot, bool]] = []
    start = dispatch.Dispatcher._start

    def noted(self: dispatch.Dispatcher, slot: Slot, item: Item) -> None:
        handed.append((slot, slot.leaving))
        start(self, slot, item)

    told: list[str] = []

    def leaving() -> Mapping[str, float]:
        if not handed or told:
            return {}
        told.append(handed[0][0].node_id)
        return {told[0]: 0.0}

    monkeypatch.setattr(dispatch.Dispatcher, "_start", noted)
    monkeypatch.setattr(dispatch, "leaving", leaving)
    monkeypatch.setattr(dispatch, "LOOK_EVERY_S", 0.0)
    assert nodes.leaving() == {}, "nobody drains the cluster of the tests"
    for number in range(6):
        help.write_tar(here / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    made = help.job(
        here,
        {"format": "webdataset", "uri": f"{here}/raw/*.tar"},
        workers={"num": 1, "cpus": 1, "units_in_flight": 2},
    )
    summary: Any = help.run(made)
    assert (summary.units, summary.rows, summary.attempts_failed) == (6, 18, 0)
    assert summary.worker_restarts == 0
    assert len({id(slot) for slot, _ in handed}) == 2, "another actor took the rest"
    assert not any(was_leaving for _, was_leaving in handed)
    assert told[0]


def test_a_client_asks_by_a_task_and_never_waits_for_it(here: Path, tmp_path: Path) -> None:
    """The first look knows nothing yet; a task that fails is asked again."""
    marker = tmp_path / "asked"

    def question() -> dict[str, float]:
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the first fails")
        return {"a node": 7.0}

    asked = nodes.ByTask(question)
    assert asked.leaving() == {}
    wait_until(lambda: asked.leaving() == {"a node": 7.0}, timeout_s=60)
