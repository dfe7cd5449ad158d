"""Where a huge tar may be cut: as it always was, because units are named by it, in little memory."""

import itertools
import tracemalloc
from array import array
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.surveying.tars import _cuts, cut_tar
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.storage import head
from tests.build import tar
from tests.examples import examples


def by_the_rule(keys: list[int], sizes: list[int], slice_bytes: int) -> Iterator[int]:
    """A cut lies before a member where enough came since the last, and no key has members on both sides."""
    edge = 0
    starts = list(itertools.accumulate(sizes, initial=0))
    for at, start in enumerate(starts[:-1]):
        if start - edge >= slice_bytes and not ({*keys[:at]} - {0}) & {*keys[at:]}:
            edge = start
            yield start


@given(
    members=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40)), max_size=30),
    is_sorted=st.booleans(),
    slice_bytes=st.integers(1, 100),
)
@examples(300)
def test_cuts_are_where_the_rule_has_them(members: list[tuple[int, int]], is_sorted: bool, slice_bytes: int) -> None:
    members = sorted(members) if is_sorted else members
    keys, sizes = [key for key, _ in members], [size for _, size in members]
    starts, runs, at = array("Q"), array("Q"), 0
    for key, size in members:
        if not key or not runs or runs[-1] != key:
            starts.append(at)
            runs.append(key)
        at += size
    assert list(_cuts(starts, runs, slice_bytes)) == list(by_the_rule(keys, sizes, slice_bytes))


def test_a_tar_is_cut_between_its_keys(tmp_path: Path) -> None:
    members = [(f"{n:03d}.{ending}", bytes(2000)) for n in range(50) for ending in ("jpg", "json", "txt")]
    (tmp_path / "a.tar").write_bytes(tar(members))
    spans = cut_tar(head(f"{tmp_path}/a.tar", Storage()), Storage(), 20_000)
    each = 3 * (512 + 2048)  # of a key
    assert [span[0] for span in spans if span] == list(range(0, 50 * each, 3 * each))
    shuffled = sorted(members, key=lambda member: member[0][::-1])  # texts after all pictures
    (tmp_path / "b.tar").write_bytes(tar(shuffled))
    assert cut_tar(head(f"{tmp_path}/b.tar", Storage()), Storage(), 20_000) == [None]


def test_a_key_takes_few_bytes() -> None:
    """A hundred million of them would not fit a driver at a hundred each."""
    count = 200_000
    starts, keys = array("Q", range(0, count * 1000, 1000)), array("Q", range(1, count + 1))
    tracemalloc.start()
    cuts = list(_cuts(starts, keys, 1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cuts) == count // 1000 - 1
    assert peak < 20 * count
