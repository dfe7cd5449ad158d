"""Whose turn it is, and what is remembered."""

import threading
import time

import pytest

from clipmill.workers import flow
from clipmill.workers.flow import Turns


def test_the_oldest_goes_first_whoever_waited_longest() -> None:
    turns, went = Turns(), list[int]()
    ranks = [turns.rank() for _ in range(4)]
    inside = threading.Event()

    def go(rank: int) -> None:
        with turns.turn(rank):
            went.append(rank)
            if rank == ranks[3]:
                inside.wait(20)

    threads = [threading.Thread(target=go, args=(rank,)) for rank in reversed(ranks)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # the youngest goes in, the others come in the wrong order
    inside.set()
    for thread in threads:
        thread.join(20)
    assert went == [ranks[3], ranks[0], ranks[1], ranks[2]]


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_than_so_many_at_once_and_nobody_is_forgotten(at_once: int) -> None:
    turns = Turns(at_once)
    inside, most, done = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        rank = turns.rank()
        for _ in range(20):
            with turns.turn(rank):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with lock:
                    inside -= 1
        with lock:
            done += 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, most) == (5, at_once)


def test_the_first_is_alone_until_it_has_ended() -> None:
    turns = Turns(2, one_first=True)
    inside, out = threading.Semaphore(0), threading.Event()

    def go() -> None:
        with turns.turn(turns.rank()):
            inside.release()
            out.wait(20)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=20)
    assert not inside.acquire(timeout=0.1)
    assert turns.at_once == 1
    for _ in range(2):  # a later unit's end changes nothing more
        turns.all_at_once()
    assert turns.at_once == 2
    assert inside.acquire(timeout=20)
    assert not inside.acquire(timeout=0.1)
    out.set()
    for thread in threads:
        thread.join(20)
    assert inside.acquire(timeout=20)


def test_a_large_first_unit_is_not_alone_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "ALONE_S", 0.05)
    turns = Turns(2, one_first=True)
    first, at_once = turns.rank(), []
    for _ in range(3):
        with turns.turn(first):
            at_once.append(turns.at_once)
            time.sleep(0.03)
    assert at_once == [1, 1, 2]


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns.turn(turns.rank()):
        raise ValueError("no")
    with turns.turn(turns.rank()):
        pass
