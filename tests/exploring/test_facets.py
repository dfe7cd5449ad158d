from collections import Counter

import pytest

from clipmill.jobs.exploring.facets import facets
from clipmill.jobs.querying.open import Examples, Query, open_table
from clipmill.schemas.errors import UserError
from tests.tables import WordEngine


def test_facets_over_the_filtered_set_equal_a_count_by_hand(indexed_uri: str) -> None:
    table = open_table(indexed_uri)
    where = "views >= 100 AND license = 'cc0'"
    tags, licenses = facets(table, Query(where=where), columns=("tags", "license"))
    rows = table.snapshot.dataset.to_table(columns=["tags", "license", "views"]).to_pylist()
    kept = [r for r in rows if r["views"] >= 100 and r["license"] == "cc0"]
    expected = Counter(tag for r in kept for tag in r["tags"])
    assert dict(tags.values) == expected
    assert [n for _, n in tags.values] == sorted(expected.values(), reverse=True)
    assert tags.rows == len(kept)
    assert licenses.values == [("cc0", len(kept))]


def test_facets_over_the_best_hits(indexed_uri: str, engine: WordEngine) -> None:
    table = open_table(indexed_uri, engine=engine)
    (tags,) = facets(table, Query(positive=Examples(texts=("red shoe",))), hits=40)
    found = table.search("red shoe", k=40)
    assert dict(tags.values) == Counter(tag for row in found["tags"].to_pylist() for tag in row)


def test_top_limits_the_values(plain_uri: str) -> None:
    (tags,) = facets(open_table(plain_uri), top=3)
    assert len(tags.values) == 3
    assert tags.distinct == 16


@pytest.mark.parametrize("column", ["vector", "nope", "caption_score"])
def test_what_cannot_be_counted_is_refused(plain_uri: str, column: str) -> None:
    with pytest.raises(UserError, match=column):
        facets(open_table(plain_uri), columns=(column,))
