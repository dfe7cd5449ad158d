"""The choice of the road and the arithmetic of vectors in memory, without a table."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipmill.jobs.querying.at_hand.sketch import Sketch, WarmVectors, sketch_rows
from clipmill.jobs.querying.curve import Curve
from clipmill.jobs.querying.roads import Road, at_odds, choose_road, in_memory, widest
from clipmill.jobs.querying.snapshot import VectorIndex
from clipmill.jobs.querying.vectors import to_float32

RQ = VectorIndex(name="i", kind="IVF_RQ", num_partitions=1000, bits=5, unindexed_rows=0)


@given(hnp.arrays(np.float16, 8, elements=st.floats(-65504, 65504, width=16)))
def test_float16_becomes_float32_exactly(half: np.ndarray) -> None:
    np.testing.assert_array_equal(to_float32(half), half.astype(np.float32))


def warm_of(row_ids: list[int], vectors_ND: np.ndarray) -> WarmVectors:
    centre_D = np.float32(0.7) * np.eye(vectors_ND.shape[1], dtype=np.float32)[0]
    sketch = Sketch(*sketch_rows(vectors_ND, centre_D), centre_D)
    return WarmVectors(np.array(row_ids, np.uint64), sketch, lambda places, _: vectors_ND[places])


@pytest.mark.parametrize(
    "row_ids", [[9, 2, 7, 4, 0], [9, 8, 7, 6, 5], [6, 9, 7, 5, 8], [5, 6, 7, 8, 9], [7, 9, 12, 1 << 63, 0]]
)
def test_vectors_in_memory_answer_for_unsorted_and_unknown_row_ids(row_ids: list[int]) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 8)).astype(np.float16)
    warm = warm_of(row_ids, vectors)
    query = np.ones(8, np.float32) / np.sqrt(8, dtype=np.float32)
    for found in (warm.cosines, lambda query, ids: warm.best(query, 5, ids)):
        ids, score = found(query, np.array([7, 100, 9, 3], np.uint64))
        assert ids.tolist() == [7, 9]
        wide = vectors[[row_ids.index(7), row_ids.index(9)]].astype(np.float64)
        np.testing.assert_allclose(score, wide @ query / np.linalg.norm(wide, axis=1), atol=1e-6)
    in_order, gapless = row_ids == sorted(row_ids), max(row_ids) - min(row_ids) == 4
    order = 0 if in_order else 4 if gapless else 12
    assert warm.nbytes == 5 * (8 + 16 + order), "its order, and its sorted ids where those have gaps"
    assert warm_of([0, 1, 2, 3, 4], vectors).nbytes == 5 * (8 + 16)
    assert len(warm_of([], np.zeros((0, 8), np.float16)).cosines(query, ids)[0]) == 0


@given(hnp.arrays(np.float16, (40, 6), elements=st.floats(-65504, 65504, width=16)), st.integers(1, 45))
def test_bytes_never_hide_one_of_the_nearest(vectors: np.ndarray, depth: int) -> None:
    """Whatever the vectors are: long or short, nearly alike, one number beside which a byte sees no other, zero."""
    query = vectors[0].astype(np.float32)
    query = query / np.linalg.norm(query) if query.any() else np.eye(6, dtype=np.float32)[0]
    warm = warm_of(list(range(40)), vectors)
    ids, score = warm.best(query, depth)
    true_ids, truth = warm.cosines(query, np.arange(40, dtype=np.uint64))
    np.testing.assert_array_equal(truth[ids.astype(int)], score)
    assert set(true_ids[truth >= np.sort(truth)[-min(depth, 40)]]) <= set(ids)


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 10_000))
def test_a_narrower_filter_never_probes_less(matches: int, total: int, depth: int) -> None:
    matches = min(matches, total)
    road = choose_road(RQ, matches=matches, total=total, depth=depth, exact=False)
    free = choose_road(RQ, matches=None, total=total, depth=depth, exact=False)
    assert not road.use_index or (road.probes or 0) >= (free.probes or 0)
    assert (free.probes or 0) <= RQ.num_partitions
    assert free.refine or free.proposed >= 2 * depth, "estimates of a quantised index are not cosines"


def test_beside_rows_that_are_in_no_index_lance_ranks_all() -> None:
    """Their distances are true ones, the index's are estimates on another scale: cut off together, those would win."""
    index = replace(RQ, unindexed_rows=1)
    for matches in (None, 10_000, 400_000):
        assert choose_road(index, matches=matches, total=10**6, depth=10, exact=False).refine


def test_what_each_kind_of_index_is_asked() -> None:
    """Deeper re-ranking where a bit says less; HNSW looks into every graph, with a queue for all that is re-ranked."""
    one_bit, hnsw = replace(RQ, bits=1), replace(RQ, kind="IVF_HNSW_SQ", bits=0, num_partitions=4)

    def road(index: VectorIndex, matches: int | None = None, depth: int = 10) -> Road:
        return choose_road(index, matches=matches, total=10**6, depth=depth, exact=False)

    assert road(RQ) == Road(use_index=True, probes=24, proposed=40)
    assert road(one_bit) == Road(use_index=True, probes=24, proposed=160)
    assert road(hnsw) == Road(use_index=True, probes=4, refine=4, ef=128)
    assert road(hnsw, depth=100).ef == 800
    assert road(hnsw, matches=50_000) == road(hnsw)
    assert widest(RQ) == Road(use_index=True, probes=1000, refine=4)
    assert (widest(one_bit).refine, widest(hnsw).refine) == (16, 4)


def test_probes_grow_with_the_question_and_no_further() -> None:
    """At a million rows 24 partitions are a fortieth; a tenth as many matches need the root of ten as many."""

    def probes(matches: int | None, depth: int = 10, index: VectorIndex = RQ) -> int | None:
        return choose_road(index, matches=matches, total=10**6, depth=depth, exact=False).probes

    assert [probes(m) for m in (None, 10**6, 250_000, 10_000)] == [24, 24, 48, 240]
    assert probes(6_001) == 310
    assert probes(6_001, index=replace(RQ, num_partitions=65_536)) == 310
    assert choose_road(RQ, matches=6_001, total=10**6, depth=26, exact=False) == widest(RQ)
    assert [probes(None, depth) for depth in (1, 100, 400, 10_000)] == [24, 24, 48, 240]
    assert probes(10_000, index=replace(RQ, num_partitions=100)) == 100


def test_what_is_proposed_holds_enough_that_passes() -> None:
    """Four times what is wanted, were the filter blind to the vectors; half of that must pass to be trusted."""

    def road(matches: int | None, depth: int = 10, unindexed: int = 0, bits: int = 5) -> Road:
        index = replace(RQ, unindexed_rows=unindexed, bits=bits)
        return choose_road(index, matches=matches, total=10**6, depth=depth, exact=False)

    assert (road(250_000).proposed, road(250_000).least, road(250_000).refine) == (160, 20, None)
    assert (road(250_000, bits=1).proposed, road(250_000, bits=1).least) == (640, 80)
    assert road(10_000, 25).proposed == 10_000
    # Too many to propose: the filter comes first, and nothing shows whether it is at odds with the query.
    assert road(10_000, 26) == widest(RQ)
    # Beside rows that no index holds Lance ranks; of many matches it ranks first and the filter follows.
    assert (road(None, unindexed=1).proposed, road(None, unindexed=1).least) == (0, 0)
    beside = road(250_000, unindexed=1)
    assert (beside.proposed, beside.least, beside.refine) == (100, 10, 4)
    assert road(200_000, unindexed=1).proposed == 120
    assert road(199_999, unindexed=1) == widest(RQ)


def test_few_matches_and_exact_leave_the_index_alone() -> None:
    assert not choose_road(RQ, matches=5000, total=10**6, depth=10, exact=False).use_index
    assert not choose_road(RQ, matches=None, total=10**6, depth=10, exact=True).use_index
    assert not choose_road(RQ, matches=6000, total=10**6, depth=10, exact=False).use_index
    assert choose_road(RQ, matches=6001, total=10**6, depth=10, exact=False).use_index
    assert not choose_road(RQ, matches=9000, total=10**6, depth=9000, exact=False).use_index
    assert not choose_road(None, matches=None, total=10**6, depth=10, exact=False).use_index
    # More of a large table, as long as all of its index takes longer: a five hundredth, up to what may be kept.
    of_ten_million = [choose_road(RQ, matches=m, total=10**7, depth=10, exact=False) for m in (20_000, 20_001)]
    assert [road.use_index for road in of_ten_million] == [False, True]
    assert choose_road(RQ, matches=20_001, total=10**9, depth=10, exact=False) == widest(RQ)
    assert choose_road(RQ, matches=20_000, total=10**7, depth=1, exact=False).proposed > 0, "there the index will do"


def test_what_was_measured_of_the_index_is_what_it_is_asked() -> None:
    """As deep as the nearest matches lie, and with a filter as deep as half of what it should let through."""
    curve = Curve(
        ranks=(10, 100, 1000), probes=(5, 50, 500), refine=6, kind="IVF_RQ", num_partitions=1000, bits=5, rows=1
    )
    index = replace(RQ, curve=curve)

    def road(matches: int | None, depth: int = 10) -> Road:
        return choose_road(index, matches=matches, total=10**6, depth=depth, exact=False)

    assert road(None) == Road(use_index=True, probes=5, proposed=60)
    assert road(None, 100).probes == 50
    assert road(20_000) == Road(use_index=True, probes=500, proposed=3000, least=30)
    assert road(200_000).probes == 50
    assert widest(index) == Road(use_index=True, probes=1000, refine=6)


@pytest.mark.parametrize("selectivity", [0.04, 0.3, 0.9])
@pytest.mark.parametrize("depth", [10, 100])
def test_a_filter_is_at_odds_where_what_passes_lies_behind_what_does_not(selectivity: float, depth: int) -> None:
    """As many pass as may be trusted, and still those near the query do not: what chance does in few of a hundred."""
    rng = np.random.default_rng(0)
    proposed = math.ceil(4 * depth / selectivity)
    draws = rng.random((200, proposed)) < selectivity
    assert np.mean([at_odds(passes, selectivity) for passes in draws]) <= 0.02
    behind = draws.copy()
    behind[:, : proposed * 3 // 10] = False
    assert np.median(behind.sum(axis=1)) >= 2 * depth
    assert np.mean([at_odds(passes, selectivity) for passes in behind]) >= 0.99
    assert np.mean([at_odds(passes, 3 * selectivity) for passes in draws]) >= 0.99


def test_what_passes_is_compared_in_memory_where_that_takes_no_longer_than_the_partitions() -> None:
    """A row by itself takes as long as five in a row, and none longer than all of them."""

    def cheap(matches: int, probes: int, total: int = 10**6) -> bool:
        return in_memory(RQ, Road(use_index=True, probes=probes, proposed=40), matches=matches, total=total)

    assert (cheap(20_000, 100), cheap(20_001, 100)) == (True, False)
    assert (cheap(2_000, 100, 10**5), cheap(2_001, 100, 10**5)) == (True, False)
    assert not cheap(10**6, 999)
    assert cheap(10**6, 1000)
    assert in_memory(RQ, widest(RQ), matches=10**6, total=10**6)
