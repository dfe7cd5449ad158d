"""What is remembered is what was used last, within its bound."""

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
