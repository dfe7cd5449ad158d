"""Which index is planned, without a table."""

from clipmill.jobs.indexing.plan import VectorPlan, plan_vector_index, rows_per_segment


def test_the_index_is_chosen_by_size_and_memory() -> None:
    assert plan_vector_index(10_000, 512, "auto", 4 * 10**9) == VectorPlan(kind="")
    assert plan_vector_index(1_000_000, 512, "auto", 4 * 10**9) == VectorPlan(
        kind="IVF_RQ", num_partitions=1000, bits=5
    )
    assert [plan_vector_index(rows, 512, "ivf_rq", 10**12).num_partitions for rows in (255, 512, 200_000, 256_000)] == [
        1,
        2,
        781,
        1000,
    ]
    assert plan_vector_index(100_000_000, 512, "auto", 10**10) == VectorPlan(
        kind="IVF_RQ", num_partitions=10_000, bits=1
    )
    assert plan_vector_index(1_000_000, 512, "hnsw_sq", 0).kind == "IVF_HNSW_SQ"
    assert plan_vector_index(0, 512, "ivf_rq", 10**9).kind == ""


def test_a_large_table_is_built_in_more_rows_at_once_up_to_a_bound() -> None:
    assert [rows_per_segment(10**n) for n in (4, 6, 7, 8, 10)] == [250_000, 250_000, 250_000, 1_000_000, 4_000_000]


def test_an_index_is_extended_until_the_table_has_outgrown_it() -> None:
    old = VectorPlan(kind="IVF_RQ", num_partitions=100, bits=5)
    assert VectorPlan(kind="IVF_RQ", num_partitions=300, bits=5).serves(old)
    assert not VectorPlan(kind="IVF_RQ", num_partitions=500, bits=5).serves(old)
    # An older release made four times the square root, or a partition of 1,024 rows; some were deleted since.
    for rows in (300_000, 1_000_000, 16_800_000, 20_123_456, 100_000_000, 10**9):
        older = VectorPlan(kind="IVF_RQ", num_partitions=min(rows // 1024, int(4 * rows**0.5), 65_536), bits=5)
        assert plan_vector_index(rows * 9 // 10, 512, "ivf_rq", 10**12).serves(older)
    assert not VectorPlan(kind="IVF_RQ", num_partitions=100, bits=1).serves(old)
