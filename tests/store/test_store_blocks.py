"""A file over ranged reads: the bytes are right whatever is read ahead, and requests overlap."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.workers.store import blocks as store_blocks
from clipmill.workers.store.blocks import Blocks
from tests.examples import examples

KB = 1024


def ranges_of(data: bytes, asked: list[tuple[int, int]] | None = None) -> Callable[[int, int], bytes]:
    def fetch(start: int, stop: int) -> bytes:
        if asked is not None:
            asked.append((start, stop))
        return data[start:stop]

    return fetch


@examples(60)
@given(
    size=st.integers(0, 50 * KB),
    ahead=st.integers(0, 3),
    steps=st.lists(st.tuples(st.integers(0, 60 * KB), st.sampled_from("srrr")), max_size=12),
)
def test_reads_and_seeks_give_the_bytes_of_the_object(size: int, ahead: int, steps: list[tuple[int, str]]) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_blocks, "FIRST_BLOCK_BYTES", KB)
        patch.setattr(store_blocks, "BLOCK_BYTES", 4 * KB)
        with Blocks(ranges_of(data), end=size, ahead=ahead) as stream:
            position = 0
            for number, kind in steps:
                if kind == "s":
                    position = stream.seek(number)
                    continue
                part = stream.read(number)
                assert part == data[position : position + number]
                position += len(part)
                assert stream.tell() == position


def test_reading_straight_on_asks_for_every_byte_once_and_ahead_of_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_blocks, "FIRST_BLOCK_BYTES", KB)
    monkeypatch.setattr(store_blocks, "BLOCK_BYTES", 4 * KB)
    data, asked = bytes(30 * KB), list[tuple[int, int]]()
    under_way = threading.Barrier(3, timeout=20)  # the first three requests wait for each other

    def fetch(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        if start < 5 * KB:
            under_way.wait()
        return data[start:stop]

    with Blocks(fetch, end=len(data), ahead=2) as stream:
        assert len(stream.read(100)) == 100
        assert len(asked) == 3, "no more than two blocks are asked for beside the one in hand"
        assert stream.read() == data[100:]
    asked.sort()
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]
    assert asked[-1][1] == len(data)


def test_a_failed_request_is_raised_where_its_bytes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_blocks, "FIRST_BLOCK_BYTES", KB)

    def fetch(start: int, stop: int) -> bytes:
        if start:
            raise TimeoutError("the store is away")
        return bytes(stop)

    with Blocks(fetch, end=10 * KB, ahead=2) as stream:
        assert stream.read(KB) == bytes(KB)
        with pytest.raises(TimeoutError):
            stream.read(1)
    with Blocks(fetch, end=10 * KB, ahead=2) as stream:
        stream.read(10)  # what was asked for in vain is not missed


def test_jumps_read_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_blocks, "FIRST_BLOCK_BYTES", KB)
    monkeypatch.setattr(store_blocks, "BLOCK_BYTES", 4 * KB)
    asked: list[tuple[int, int]] = []
    data = bytes(100 * KB)
    with Blocks(ranges_of(data, asked), end=len(data)) as stream:
        for position in (90 * KB, 0, 50 * KB):
            stream.seek(position)
            stream.read(10)
    assert asked == [(90 * KB, 91 * KB), (0, KB), (50 * KB, 51 * KB)]
