"""What people type in Python: understood where it is clear, and else one sentence that says what to type."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.querying.open import Examples, Query, Table, open_table
from clipmill.schemas.errors import ClipmillError, UserError
from tests.tables import DIM, TableOptions, WordEngine, make_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    uri = make_table(tmp_path_factory.mktemp("python"), TableOptions(rows=300))
    return open_table(Path(uri), engine=WordEngine())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ({"limit": 3}, {"k": 3}),
        ({"k": np.int64(3)}, {"k": 3}),
        ({"columns": "id"}, {"columns": ("id",)}),
        ({"columns": ["id", "tags"]}, {"columns": ("id", "tags")}),
        ({"negative": "hat"}, {"negative": Examples(texts=("hat",))}),
        ({"negative": ["hat", "dress"]}, {"negative": Examples(texts=("hat", "dress"))}),
        (
            {"negative": Examples(texts="hat", ids="row-000001")},
            {"negative": Examples(texts=("hat",), ids=("row-000001",))},
        ),
        ({"any_tags": "red"}, {"any_tags": ("red",)}),
        ({"any_tags": {"red"}}, {"any_tags": ("red",)}),
        ({"all_tags": ["red", "shoe"]}, {"all_tags": ("red", "shoe")}),
        ({"min_score": 0}, {"min_score": 0.0}),
        ({"min_score": np.float32(0.25)}, {"min_score": 0.25}),
    ],
)
def test_what_is_clear_is_understood(table: Table, typed: dict, meant: dict) -> None:
    found, expected = table.search("red shoe", **typed), table.search("red shoe", **meant)
    assert len(found) > 0
    assert found.equals(expected)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"text": 5}, "text is 5 .*string"),
        ({"text": b"red"}, "text is b'red'"),
        ({"text": ["red", None]}, "None"),
        ({"text": np.zeros(1000)}, "strings only"),
        ({"like": 17}, "like is 17"),
        ({"text": "red", "k": "10"}, "k is '10' .*whole number"),
        ({"text": "red", "k": 2.5}, "k is 2.5"),
        ({"text": "red", "k": True}, "k is True"),
        ({"text": "red", "k": None}, "k is None"),
        ({"text": "red", "offset": "0"}, "offset is '0'"),
        ({"text": "red", "limit": 3, "k": 3}, "both k and limit"),
        ({"text": "red", "top_k": 3}, "no option top_k .*did you mean k"),
        ({"text": "red", "filter": "width > 3"}, "no option filter .*did you mean where"),
        ({"text": "red", "wher": "width > 3"}, "no option wher .*did you mean where"),
        ({"text": "red", "K": 3}, "no option K .*did you mean k"),
        ({"text": "red", "zzz": 1}, "no option zzz .*there is: "),
        ({"text": "red", "where": 5}, "where is 5"),
        ({"text": "red", "where": ["width > 5"]}, "where is "),
        ({"text": "red", "columns": 5}, "columns is 5"),
        ({"text": "red", "columns": ["id", 5]}, "columns.* is 5"),
        ({"text": "red", "column": ["vector"]}, "column is "),
        ({"text": "red", "any_tags": 5}, "any_tags is 5"),
        ({"text": "red", "min_score": "0.2"}, "min_score is '0.2' .*number"),
        ({"text": "red", "text_weight": None}, "text_weight is None"),
        ({"text": "red", "hybrid": "yes"}, "hybrid is 'yes' .*True or False"),
        ({"text": "red", "negative": 5}, "negative is 5"),
        ({"image": 5}, "query image is a int"),
        ({"vector": "red"}, "not a list of numbers"),
        ({"vector": np.ones(DIM, complex)}, "not a list of numbers"),
        ({"vector": [1e300] * DIM}, "zero or not finite"),
    ],
)
def test_what_is_not_clear_is_one_sentence_with_its_hint(table: Table, typed: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        table.search(**typed)
    assert raised.value.hint
    assert len(str(raised.value)) < 400


def test_other_questions_take_strings_too(table: Table) -> None:
    assert table.count("views < 10") == table.count(Query(where="views < 10")) == 10
    assert table.get("row-000004", "id").to_pylist() == [{"id": "row-000004"}]
    with pytest.raises(UserError, match="ids is 4"):
        table.get(4)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="where is 5"):
        table.count(5)  # type: ignore[arg-type]


def test_a_table_says_what_it_is(table: Table) -> None:
    shown = repr(table)
    for word in ("/images", "version 1", "300 rows", "vector by words", "caption_vector", "license"):
        assert word in shown
    assert "\n" not in shown


def test_a_table_is_opened_by_a_name_or_a_path(table: Table) -> None:
    assert open_table(table.uri).num_rows == 300
    with pytest.raises(UserError, match=r"no option endpoint_url .*Storage\(endpoint_url"):
        open_table(table.uri, endpoint_url="http://localhost:9000")
    for wrong in ({"uri": None}, {"uri": 5}, {"uri": table.uri, "version": 1.5}, {"uri": table.uri, "storage": {}}):
        with pytest.raises(UserError) as raised:
            open_table(**wrong)  # type: ignore[arg-type]
        assert raised.value.hint


def test_the_hint_of_an_error_is_in_its_text() -> None:
    error = UserError("there is no table x", "check the name")
    assert str(error) == "there is no table x (hint: check the name)"
    assert str(ClipmillError("alone")) == "alone"
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.hint) == (error.message, error.hint)


def test_a_kept_column_may_hold_two_underscores(tmp_path: Path) -> None:
    """Only the names of a second model's columns are spoken for."""
    import lance

    from clipmill.jobs.indexing.build import build_index
    from clipmill.schemas.job.config import Source

    uri = make_table(tmp_path, TableOptions(rows=60))
    dataset = lance.dataset(f"{uri}.lance")
    # Without vector__new beside it, tags__new would be another vocabulary's, which readers do see.
    dataset.add_columns({"shop__price": "views * 2", "tags__new": "tags", "vector__new": "vector"})
    assert build_index(uri).scalar["shop__price"] == "built"
    table = open_table(uri, engine=WordEngine())
    found = table.search("red shoe", where="shop__price = 24", k=1)
    assert found["shop__price"].to_pylist() == [24]
    assert "tags__new" not in found.column_names
    job = {"format": "webdataset", "uri": "x/*.tar"}
    assert Source.model_validate({**job, "keep": {"shop__price": "int64"}}).keep_types == {"shop__price": "int64"}
    with pytest.raises(ValueError, match="second model"):
        Source.model_validate({**job, "keep": {"tags__new": "list<string>"}})
