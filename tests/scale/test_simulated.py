"""Actors in compressed time: the real dispatcher, collector and committer, no Ray: `benchmarks/simulate.py`."""

from pathlib import Path

from benchmarks.simulate import simulate


def test_nodes_of_three_speeds_that_come_and_are_lost_cost_no_row_and_no_attempt(tmp_path: Path) -> None:
    found = simulate(tmp_path, number=80, actors=10, unit_s=60.0, lost_an_hour=6.0)
    assert (found["rows"], found["units"], found["problems"]) == (80, 80, [])
    assert min(found["nodes_lost"].values()) >= 2, "with a notice and without"
    assert found["attempts_lost"] >= 2
    assert (found["attempts_failed"], found["failed_units"]) == (0, 0)
    assert found["actors_at_once"] == 10
    assert found["of_actor_hours_at_work"] > 0.8


def test_with_many_actors_a_turn_of_the_loop_takes_several_receipts(tmp_path: Path) -> None:
    """A hundred units a second on 200 actors: with a turn for each, 679 references were looked at for a unit."""
    found = simulate(tmp_path, number=300, actors=200, unit_s=1.3, lost_an_hour=0.0)
    assert found["rows"] == 300
    assert found["references_per_unit"] < 600
