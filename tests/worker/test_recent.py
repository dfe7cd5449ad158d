"""What is remembered is what was used last, within its bound."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipmill.workers import recent as module
from clipmill.workers.recent import Recent


def test_what_was_used_last_is_remembered_within_the_bound() -> None:
    recent: Recent[str, bytes] = Recent(lambda key, value: len(value), max_bytes=30)
    for key in "abc":
        recent.put(key, bytes(10))
    assert recent.get("a") == bytes(10)
    recent.put("d", bytes(10))
    assert [recent.get(key) is not None for key in "abcd"] == [True, False, True, True]
    recent.put("huge", bytes(100))
    assert recent.get("huge") is None, "what is larger than the bound is not kept"


def test_a_value_is_made_once_while_it_is_remembered() -> None:
    recent: Recent[str, bytes] = Recent(lambda key, value: len(value), max_bytes=10)
    assert recent.get_or_make("a", lambda: b"12345") == b"12345"
    recent.get_or_make("b", lambda: b"1234")
    recent.get_or_make("a", lambda: b"?")
    recent.get_or_make("c", lambda: b"123")  # b is the one longest unused
    assert recent.get_or_make("a", lambda: b"?") == b"12345"
    assert recent.get_or_make("b", lambda: b"new") == b"new"
    assert recent.get_or_make("huge", lambda: bytes(11)) == bytes(11)
    assert recent.get_or_make("b", lambda: b"?") == b"new"


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_miss_at_once_make_a_value_once(fails: bool) -> None:
    """A server's threads read the rows of one filter side by side, all of them; where one fails, the next does."""
    recent: Recent[str, bytes] = Recent(lambda key, value: len(value), max_bytes=10)
    made: list[int] = []
    both_there = threading.Event()

    def make() -> bytes:
        made.append(threading.get_ident())
        both_there.wait(5)
        if fails and len(made) == 1:
            raise TimeoutError
        return b"1"

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(recent.get_or_make, "a", make) for _ in range(2)]
        time.sleep(0.1)  # both are at it: one makes, one waits
        both_there.set()
        errors = [one.exception() for one in both]
    assert len(made) == 1 + fails
    assert sum(error is not None for error in errors) == fails
    assert recent.get("a") == b"1"


def test_nobody_waits_long_for_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    recent: Recent[str, bytes] = Recent(lambda key, value: len(value), max_bytes=10)
    begun, ended = threading.Event(), threading.Event()

    def slow() -> bytes:
        begun.set()
        assert ended.wait(5)
        return b"slow"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(recent.get_or_make, "a", slow)
        assert begun.wait(5)
        assert recent.get_or_make("a", lambda: b"own") == b"own"
        ended.set()
        assert first.result() == b"slow"
