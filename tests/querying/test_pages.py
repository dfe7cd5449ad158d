"""Pages of one search, by an index that is searched deeper for deeper pages: each row once, and all rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.indexing import plan
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import nearest, roads
from clipmill.jobs.querying.open import Table, open_table
from tests.examples import examples
from tests.tables import DIM, TableOptions, WordEngine, append, make_table

ROWS = 1200


@pytest.fixture(scope="module", autouse=True)
def narrow() -> None:
    """Many partitions, of which few are searched, in a table of test size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ROWS_PER_PARTITION", 30)
        for module, name in ((roads, "EXACT_MATCHES"), (nearest, "EXACT_ROWS")):
            patch.setattr(module, name, 16)
        yield


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """A script's and a server's, of a table that is indexed whole and of one with new rows beside its index."""
    found = {}
    for name, new in (("whole", 0), ("beside", 40)):
        uri = make_table(Path(tmp_path_factory.mktemp("pages")), TableOptions(rows=ROWS))
        build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
        if new:
            append(uri, TableOptions(rows=new, start=ROWS))
        for place in ("script", "server"):
            found[f"{place}, {name}"] = table = open_table(uri, engine=WordEngine())
            assert place == "script" or table.warm(), table.cold
    return found


def shown(table: Table, k: int, rows: int, **asked: object) -> list[str]:
    pages = [table.search(k=k, offset=n, columns="id", **asked)["id"].to_pylist() for n in range(0, rows, k)]
    assert all(len(page) == k for page in pages[:-1]), "a page that is not the last one is full"
    return [row_id for page in pages for row_id in page]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("fields", [{}, {"where": "views % 3 > 0"}, {"any_tags": ("boat", "tree")}], ids=str)
@pytest.mark.parametrize("name", [f"{place}, {rows}" for place in ("script", "server") for rows in ("whole", "beside")])
def test_all_pages_together_are_all_rows_once(
    tables: dict[str, Table], name: str, fields: dict[str, object], hybrid: bool
) -> None:
    table = tables[name]
    passes = set(table.search(k=2000, columns="id", **fields)["id"].to_pylist())  # no example: in the table's order
    found = shown(table, 40, len(passes), text="red shoe", hybrid=hybrid, **fields)
    assert (len(found), set(found)) == (len(passes), passes)


@examples(25)
@given(seed=st.integers(0, 999), k=st.integers(1, 90), places=st.sets(st.integers(0, 11), min_size=2), data=st.data())
def test_a_page_is_a_part_of_one_ranking_whichever_is_asked_for_first(
    tables: dict[str, Table], seed: int, k: int, places: set[int], data: st.DataObject
) -> None:
    table = tables[data.draw(st.sampled_from(sorted(tables)))]
    asked = {"vector": np.random.default_rng(seed).standard_normal(DIM), "where": f"views >= {seed}", "columns": "id"}
    order = data.draw(st.permutations(sorted(places)))
    pages = {n: table.search(k=k, offset=n * k, **asked)["id"].to_pylist() for n in order}
    seen = [row_id for n in sorted(pages) for row_id in pages[n]]
    assert len(seen) == len(set(seen))
    again = open_table(table.uri, engine=WordEngine())
    again.snapshot.warm = table.snapshot.warm
    for n in sorted(pages):
        assert again.search(k=k, offset=n * k, **asked)["id"].to_pylist() == pages[n], "as kept, so found anew"


def test_a_least_score_ends_the_pages(tables: dict[str, Table]) -> None:
    """Behind a page that is short there is none, though a deeper look would find what the first one missed."""
    table = tables["script, whole"]
    whole = table.search("red shoe", k=10)
    for place in range(10):
        asked = {"text": "red shoe", "k": 10, "min_score": whole["score"][place].as_py()}
        assert table.search(**asked)["id"].to_pylist() == whole["id"].to_pylist()[: place + 1]
        assert len(table.search(offset=place + 1, **asked)) == 0 or place == 9


def test_the_first_page_costs_what_it_did(tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks once, for as many as it shows; who turns pages asks for no more than twice what is shown so far."""
    table = tables["script, whole"]
    asked: list[int] = []
    look = nearest.nearest

    def counted(snapshot: object, column: str, vector_D: object, depth: int, *rest: object) -> object:
        asked.append(depth)
        return look(snapshot, column, vector_D, depth, *rest)

    monkeypatch.setattr("clipmill.jobs.querying.pages.nearest", counted)
    for n in range(6):
        table.search("white house", k=10, offset=10 * n)
    assert asked == [10, 20, 40, 80]
    table.search("white house", k=10)
    assert asked == [10, 20, 40, 80, 10], "no first page is from memory"


def test_a_page_is_full_where_the_partitions_looked_into_hold_less(
    tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roads, "BASE_PROBES", 2)
    table = open_table(tables["script, beside"].uri, engine=WordEngine())
    index = table.snapshot.vector_index("vector")
    assert index is not None
    assert index.unindexed_rows == 40
    table.snapshot.assume("vector", replace(index, curve=None))
    assert len(table.search("red shoe", k=500, columns="id")) == 500


def test_a_first_page_under_a_filter_stays_as_it_was_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next time it is known which rows pass, and it would be looked for on another road."""
    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))
    table = open_table(uri, engine=WordEngine())
    shown = table.search("red shoe", k=20, any_tags=("red",))

    def anew(*_: object) -> None:
        raise AssertionError("looked for again")

    monkeypatch.setattr("clipmill.jobs.querying.pages.nearest", anew)
    assert table.search("red shoe", k=20, any_tags=("red",)) == shown
