"""Both towers are made ready side by side, each with its share of torch's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from clipmill.workers.clip.ready import aside, side_by_side


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_two_works_meet_and_share_the_threads() -> None:
    torch.set_num_threads(4)
    meet = threading.Barrier(2, timeout=10)

    def work() -> int:
        meet.wait()
        return torch.get_num_threads()

    assert side_by_side(work, work) == (2, 2)
    assert torch.get_num_threads() == 4
    assert aside(lambda: threading.current_thread() is threading.main_thread())() is False


def test_one_thread_does_one_after_the_other() -> None:
    torch.set_num_threads(1)
    done: list[str] = []
    side_by_side(lambda: done.append(threading.current_thread().name), lambda: done.append("other"))
    assert done == [threading.current_thread().name, "other"]
    assert aside(lambda: threading.current_thread() is threading.main_thread())() is True


def test_an_error_of_either_is_raised_when_both_have_ended() -> None:
    torch.set_num_threads(2)
    ended = threading.Event()

    def fails() -> None:
        raise RuntimeError("no kernel")

    for works in ((fails, ended.set), (ended.set, fails)):
        ended.clear()
        with pytest.raises(RuntimeError, match="no kernel"):
            side_by_side(*works)
        assert ended.is_set()
        assert torch.get_num_threads() == 2
