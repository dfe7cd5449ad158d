"""Pairs of perceptual hashes that differ in few bits, all of them, without comparing each with each.

Where two hashes differ in at most d bits, one of d + 1 bands of their bits is the same in both (the pigeonhole
principle; Manku, Jain and Das Sarma, "Detecting Near-Duplicates for Web Crawling", 2007, section 3), so only hashes
with an equal band are compared. Memory is some numbers a row.
N: rows. U: different hashes. M: hashes with an equal band.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying.phash import BITS, Hashes
from clipmill.schemas.text.words import counted

MAX_DISTANCE = 10  # bands of five bits: beyond, nearly each is compared with each, and different pictures are joined
DEFAULT_DISTANCE = 4
# A picture whose frequencies are mostly nothing (one of one colour, an even slope) has fewer bits than half; such
# hashes are equal for pictures that have nothing in common.
MIN_BITS = 16
_BLOCK = 1 << 21  # pairs compared at once
_MANY = 100_000  # hashes of which somebody wants to know how far it is

Pair = tuple[int, int]
Places = npt.NDArray[np.int64]


def near_pairs(stored: pa.ChunkedArray, max_distance: int, tell: Callable[[str], None]) -> Iterator[Pair]:
    """Places of pairs, the earlier first, that connect all rows at most `max_distance` bits apart; of equal hashes each
    with the first. Rows without a hash, or with one of a picture that shows nothing, are in none."""
    there_N = np.asarray(stored.is_valid())
    hashes_N = stored.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    places = np.flatnonzero(there_N & (np.bitwise_count(hashes_N) >= MIN_BITS))
    hashes_U, first_U, which = np.unique(hashes_N[places], return_index=True, return_inverse=True)
    first_places = places[first_U]
    again = np.flatnonzero(first_places[which] != places)
    yield from zip(first_places[which[again]].tolist(), places[again].tolist(), strict=True)
    for band, members in enumerate(_with_an_equal_band(hashes_U, max_distance)):
        for found_M in members:
            for one, other in _pairs_within(hashes_U[found_M], max_distance):
                a, b = int(first_places[found_M[one]]), int(first_places[found_M[other]])
                yield min(a, b), max(a, b)
        if len(hashes_U) > _MANY:
            tell(f"{band + 1} of {counted(max_distance + 1, 'band')} of bits compared")


def _with_an_equal_band(hashes_U: Hashes, max_distance: int) -> Iterator[Iterator[Places]]:
    """For each band, the groups of two and more."""
    if not max_distance:
        return
    edges = np.linspace(0, BITS, max_distance + 2).astype(int).tolist()
    for low, high in pairwise(edges):
        band_U = (hashes_U >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band_U, kind="stable")
        ends = np.flatnonzero(np.r_[band_U[order][1:] != band_U[order][:-1], True]) + 1
        starts = np.r_[0, ends[:-1]]
        several = np.flatnonzero(ends - starts > 1)
        yield (order[starts[n] : ends[n]] for n in several)


def _pairs_within(hashes_M: Hashes, max_distance: int) -> Iterator[Pair]:
    step = max(1, _BLOCK // len(hashes_M))
    for start in range(0, len(hashes_M), step):
        different = np.bitwise_count(hashes_M[start : start + step, None] ^ hashes_M[None, start:])
        one, other = np.nonzero(different <= max_distance)
        ahead = other > one
        yield from zip((start + one[ahead]).tolist(), (start + other[ahead]).tolist(), strict=True)
