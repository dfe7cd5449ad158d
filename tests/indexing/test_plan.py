"""Which index is planned, without a table."""

from clipmill.jobs.indexing.plan import VectorPlan, plan_vector_index


def test_the_index_is_chosen_by_size_and_memory() -> None:
    assert plan_vector_index(10_000, 512, "auto", 4 * 10**9) == VectorPlan(kind="")
    assert plan_vector_index(1_000_000, 512, "auto", 4 * 10**9) == VectorPlan(kind="IVF_RQ", num_partitions=976, bits=5)
    assert plan_vector_index(100_000_000, 512, "auto", 10**10).bits == 1
    assert plan_vector_index(1_000_000, 512, "hnsw_sq", 0).kind == "IVF_HNSW_SQ"
    assert plan_vector_index(0, 512, "ivf_rq", 10**9).kind == ""


def test_an_index_is_extended_until_the_table_has_outgrown_it() -> None:
    old = VectorPlan(kind="IVF_RQ", num_partitions=100, bits=5)
    assert VectorPlan(kind="IVF_RQ", num_partitions=300, bits=5).serves(old)
    assert not VectorPlan(kind="IVF_RQ", num_partitions=500, bits=5).serves(old)
    assert not VectorPlan(kind="IVF_RQ", num_partitions=100, bits=1).serves(old)
