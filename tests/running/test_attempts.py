"""Who is blamed for a death, and how often: the rules of attempts, against random histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.running.actors.attempts import Attempts, Fate, Item
from tests.committed import unit


def attempts(*names: str, limit: int = 3) -> Attempts:
    return Attempts(tuple(unit(n) for n in names), limit)


def take(a: Attempts, *, idle: bool = True) -> Item:
    item = a.take(idle_worker=idle)
    assert item is not None
    return item


def test_a_first_attempt_is_of_the_whole_unit_and_beside_others() -> None:
    """A probe goes through a unit sample by sample in a child process: right, and many times slower."""
    a = attempts("1", "2", "3")
    for item in (take(a), take(a, idle=False), take(a, idle=False)):
        assert (item.attempt, item.used, item.alone, item.probe, item.skip) == (1, 0, False, False, {})


@pytest.mark.parametrize("fate", [Fate.ERROR, Fate.WORKER_LOST])
def test_who_did_not_kill_its_worker_is_no_suspect(fate: Fate) -> None:
    a = attempts("1", limit=4)
    a.ended(take(a), fate)
    item = take(a, idle=False)
    assert (item.attempt, item.alone, item.probe) == (2, False, False)
    a.ended(item, Fate.WORKER_DIED)
    a.ended(take(a), fate)
    suspect = take(a)
    assert (suspect.alone, suspect.probe) == (True, False), "alone, but it did not die alone"


def test_units_in_flight_at_a_death_rerun_alone() -> None:
    a = attempts("1", "2", "3")
    first, second = take(a), take(a, idle=False)
    a.ended(first, Fate.WORKER_DIED)
    a.ended(second, Fate.WORKER_DIED)
    assert take(a, idle=False).unit.unit_id == "3"
    assert a.take(idle_worker=False) is None
    suspect = take(a)
    assert (suspect.unit.unit_id, suspect.alone, suspect.probe) == ("1", True, False)


def test_a_unit_that_dies_alone_is_probed_and_the_sample_skipped() -> None:
    a = attempts("1")
    item = take(a)
    a.ended(item, Fate.WORKER_DIED)
    item = take(a)
    a.ended(item, Fate.WORKER_DIED)
    item = take(a)
    assert item.probe
    a.found(item, (17, "killed_worker"))
    item = take(a)
    assert item.probe, "there may be more of them"
    a.found(item, None)
    item = take(a)
    assert (item.probe, item.skip, item.used) == (False, {17: "killed_worker"}, 2)
    a.done(item)
    assert a.finished
    assert not a.failed


def test_three_attempts_and_the_unit_is_named() -> None:
    a = attempts("1")
    for _ in range(3):
        a.ended(take(a), Fate.ERROR, "OSError: no")
    assert a.finished
    assert [(f.unit.unit_id, f.reason) for f in a.failed] == [("1", "OSError: no")]


def test_preemption_is_not_an_attempt() -> None:
    a = attempts("1")
    for _ in range(20):
        a.ended(take(a), Fate.WORKER_LOST)
    assert not a.failed
    assert take(a).used == 0


def test_losses_and_attempts_are_counted_apart() -> None:
    a = attempts("a", limit=2)
    for fate in (Fate.WORKER_LOST, Fate.ERROR, Fate.WORKER_LOST, Fate.ERROR):
        a.ended(take(a), fate)
    assert (a.used, a.lost, len(a.failed)) == (2, 2, 1)


def test_a_changed_source_is_not_tried_again() -> None:
    a = attempts("1")
    a.ended(take(a), Fate.SOURCE_CHANGED)
    assert a.finished
    assert "changed" in a.failed[0].reason


@given(st.data(), st.integers(1, 8), st.integers(1, 4))
def test_every_unit_ends_once_whatever_happens(data: st.DataObject, count: int, limit: int) -> None:
    a = attempts(*(str(n) for n in range(count)), limit=limit)
    out: list[Item] = []
    finished: list[str] = []
    numbers: dict[str, list[int]] = {}
    for _ in range(200):
        if a.finished:
            break
        item = a.take(idle_worker=not out)
        if item is not None:
            assert not (item.alone and out), "a suspect shares its worker"
            numbers.setdefault(item.unit.unit_id, []).append(item.attempt)
            out.append(item)
        if item is None or data.draw(st.booleans()):
            one = out.pop(data.draw(st.integers(0, len(out) - 1)))
            what = data.draw(st.sampled_from(["done", *Fate])) if not one.probe else "probe"
            if what == "probe":
                a.found(
                    one,
                    data.draw(st.sampled_from([None, (len(one.skip), "killed_worker")])) if len(one.skip) < 3 else None,
                )
            elif what == "done":
                a.done(one)
                finished.append(one.unit.unit_id)
            else:
                a.ended(one, Fate(what))
    else:
        return  # preempted for ever: allowed, and not a loss
    assert sorted(finished + [f.unit.unit_id for f in a.failed]) == sorted(str(n) for n in range(count))
    assert all(tries == sorted(set(tries)) for tries in numbers.values()), "an attempt number was used twice"
