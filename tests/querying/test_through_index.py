"""What an index finds, beside what a search of every row finds; tables are small, so the road is narrowed by hand."""

from pathlib import Path

import pytest

from clipmill.jobs.indexing import plan
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import nearest, roads
from clipmill.jobs.querying.open import open_table
from tests.tables import TableOptions, WordEngine, append, make_table


def test_tags_that_lie_far_from_the_query_are_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with such a tag may be nearest in any partition, and those near the query hold none of them."""
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 50)
    uri = make_table(tmp_path, TableOptions(rows=3000))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    # So small a table would never need its index, and would search most of it.
    for module, name, value in ((roads, "EXACT_MATCHES", 16), (roads, "BASE_PROBES", 3), (roads, "MAX_WIDENING", 1.0)):
        monkeypatch.setattr(module, name, value)
    for name, value in (("EXACT_ROWS", 16), ("in_memory", lambda *_, **__: False)):
        monkeypatch.setattr(nearest, name, value)
    table = open_table(uri, engine=WordEngine())
    hits = 0
    for words, tag in (("red shoe", "boat"), ("blue hat", "tree"), ("green dog", "car"), ("white house", "black")):
        found = table.search(words, any_tags=(tag,), columns=("id",))["id"].to_pylist()
        truth = table.search(words, any_tags=(tag,), columns=("id",), exact=True)["id"].to_pylist()
        hits += len(set(found) & set(truth))
    assert hits / 40 >= 0.95


@pytest.mark.parametrize(("memory_bytes", "bits"), [(10**9, 5), (0, 1)])
def test_a_page_is_full_beside_rows_that_no_index_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, bits: int
) -> None:
    """New rows, and filters that most rows pass and none of the nearest: ten are asked for, the right ten come."""
    monkeypatch.setattr(roads, "EXACT_MATCHES", 16)  # so small a table would never need its index
    monkeypatch.setattr(nearest, "EXACT_ROWS", 16)
    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", memory_bytes=memory_bytes, measure_recall=False))
    append(uri, TableOptions(rows=60, start=1500))
    table = open_table(uri, engine=WordEngine())
    index = table.snapshot.vector_index("vector")
    assert index is not None
    assert (index.unindexed_rows, index.bits) == (60, bits)
    for fields in (
        {},
        {"no_tags": ("red",)},
        {"no_tags": ("red", "shoe"), "where": "views >= 700"},
        {"where": "views >= 1490"},
    ):
        truth = table.search("red shoe", exact=True, columns=("id",), **fields)["id"].to_pylist()
        found = table.search("red shoe", columns=("id",), **fields)["id"].to_pylist()
        assert len(found) == 10, fields
        assert len(set(found) & set(truth)) >= 9, fields
