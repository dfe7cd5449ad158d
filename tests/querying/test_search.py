"""What a search promises: true cosines in order, filters that hold, examples that combine, mistakes explained."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.querying import roads
from clipmill.jobs.querying.open import Examples, Query, Table, open_table
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from tests.tables import TableOptions, WordEngine, append, batch, make_table, picture


@pytest.fixture(params=["plain", "indexed", "warm"])
def table(request: pytest.FixtureRequest, engine: WordEngine, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Every road of a search: the exact scan, the index (before and after the filter), and vectors in memory."""
    opened = open_table(
        request.getfixturevalue("plain_uri" if request.param == "plain" else "indexed_uri"), engine=engine
    )
    if request.param == "indexed":
        monkeypatch.setattr(roads, "EXACT_MATCHES", 16)  # else so small a table would never need its index
    if request.param == "warm":
        assert opened.warm(("vector", "caption_vector"))
    return opened


def exact(table: Table, vector_D: np.ndarray, keep: object = None) -> list[tuple[str, float]]:
    """Brute force over the stored vectors, in float64: (id, cosine), best first."""
    rows = table.snapshot.dataset.to_table(columns=["id", "vector", "tags", "license", "views"]).to_pylist()
    found = []
    for row in rows:
        if row["vector"] is not None and (keep is None or keep(row)):
            stored_D = np.asarray(row["vector"], dtype=np.float64)
            found.append((row["id"], float(stored_D @ vector_D / np.linalg.norm(stored_D))))
    return sorted(found, key=lambda pair: -pair[1])


def test_scores_are_true_cosines_in_descending_order(table: Table, engine: WordEngine) -> None:
    found = table.search("red shoe", k=20)
    truth = exact(table, engine.encode_texts(["red shoe"])[0].astype(np.float64))
    assert found["id"].to_pylist() == [row_id for row_id, _ in truth[:20]]
    np.testing.assert_allclose(found["score"].to_numpy(), [score for _, score in truth[:20]], atol=2e-3)
    assert "vector" not in found.column_names


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"where": "license = 'cc0'"}, lambda r: r["license"] == "cc0"),
        ({"where": "views % 2 = 1 AND views > 100"}, lambda r: r["views"] % 2 == 1 and r["views"] > 100),
        ({"where": "id IN ('row-000060', 'row-000061')"}, lambda r: r["id"] in ("row-000060", "row-000061")),
        ({"any_tags": ("red", "cat")}, lambda r: {"red", "cat"} & set(r["tags"])),
        ({"all_tags": ("red", "cat")}, lambda r: {"red", "cat"} <= set(r["tags"])),
        ({"no_tags": ("red", "shoe")}, lambda r: not {"red", "shoe"} & set(r["tags"])),
        ({"any_tags": "blue", "where": "views < 500"}, lambda r: "blue" in r["tags"] and r["views"] < 500),
    ],
)
def test_filters_hold_and_miss_nothing(table: Table, engine: WordEngine, options: dict, keep: object) -> None:
    truth = exact(table, engine.encode_texts(["red shoe"])[0].astype(np.float64), keep)[:10]
    found = table.search("red shoe", k=10, **options)
    assert found["id"].to_pylist() == [row_id for row_id, _ in truth]


def test_a_filter_that_nothing_passes_gives_an_empty_page_with_the_columns(table: Table) -> None:
    found = table.search("red shoe", where="views < 0")
    assert len(found) == 0
    assert {"id", "caption", "score"} <= set(found.column_names)


def test_pages_join_into_one_ranking(table: Table) -> None:
    whole = table.search("green dress", k=30)["id"].to_pylist()
    pages = [table.search("green dress", k=10, offset=n) for n in (0, 10, 20)]
    assert pa.concat_tables(pages)["id"].to_pylist() == whole


def test_copies_of_a_picture_are_each_on_one_page(tmp_path, engine: WordEngine) -> None:
    """Thirty rows with one vector, which tie: which of them a page ends with must not depend on the page."""
    uri = make_table(tmp_path, TableOptions(rows=30, noise=0.0))
    for start in range(30, 240, 30):
        append(uri, TableOptions(rows=30, noise=0.0, start=start))
    opened = open_table(uri, engine=engine)
    for _ in range(2):
        pages = [opened.search("red shoe", k=7, offset=n, columns=("id",))["id"].to_pylist() for n in range(0, 70, 7)]
        found = [row_id for page in pages for row_id in page]
        assert len(set(found)) == 70
        assert found == opened.search("red shoe", k=70, columns=("id",))["id"].to_pylist()
        assert opened.warm()  # once more, from memory


def test_min_score_cuts_the_tail(table: Table) -> None:
    scores = table.search("red shoe", k=50)["score"].to_pylist()
    cut = table.search("red shoe", k=50, min_score=scores[4])["score"].to_pylist()
    assert cut == scores[:5]


def test_an_image_as_bytes_path_or_pil_finds_its_colour(table: Table, tmp_path) -> None:
    import io

    from PIL import Image

    (tmp_path / "blue.png").write_bytes(picture("blue"))
    for image in (
        picture("blue"),
        tmp_path / "blue.png",
        str(tmp_path / "blue.png"),
        Image.open(io.BytesIO(picture("blue"))),
    ):
        found = table.search(image=image, k=5)
        assert len(found) == 5
        assert all("blue" in tags for tags in found["tags"].to_pylist())


def test_more_like_this_leaves_out_the_examples(table: Table) -> None:
    found = table.search(like=["row-000060", "row-000120"], k=10)
    assert not {"row-000060", "row-000120"} & set(found["id"].to_pylist())
    assert len(found) == 10
    assert all("red" in tags for tags in found["tags"].to_pylist()[:3])


def test_a_negative_example_turns_the_search_away(table: Table) -> None:
    toward = table.search("red", k=20)["tags"].to_pylist()
    away = table.search("red", negative=Examples(texts=("shoe", "hat")), k=20)["tags"].to_pylist()
    assert any({"shoe", "hat"} & set(t) for t in toward)
    assert not any({"shoe", "hat"} & set(t) for t in away)


def test_several_positives_meet_in_the_middle(table: Table) -> None:
    found = table.search(["red", "shoe"], k=5)
    assert len(found) == 5
    assert all(set(tags) == {"red", "shoe"} for tags in found["tags"].to_pylist())


def test_without_examples_the_rows_are_listed(table: Table) -> None:
    found = table.search(where="views >= 3", k=3, columns=("id",))
    assert found["id"].to_pylist() == ["row-000004", "row-000005", "row-000006"]  # row 3 has no vector: hidden
    assert found["score"].null_count == 3


def test_columns_are_those_asked_for(table: Table) -> None:
    assert table.search("red", k=1, columns=("uri", "vector")).column_names == ["uri", "vector", "score"]
    twice = ("id", "uri", "id")
    assert table.search("red", k=1, columns=twice).column_names == ["id", "uri", "score"]
    assert table.search(where="views > 3", k=1, columns=twice).column_names == ["id", "uri", "score"]
    assert table.get("row-000004", columns=twice).column_names == ["id", "uri"]


def test_of_a_column_called_score_the_cosine_takes_the_place(tmp_path, engine: WordEngine) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    lance.dataset(f"{uri}.lance").add_columns({"score": "cast(7 as double)"})
    other = open_table(uri, engine=engine)
    for columns in (None, ("score",), ("id", "score")):
        hits = other.search("red shoe", columns=columns, k=3)
        assert hits.column_names.count("score") == 1
        assert max(hits["score"].to_pylist()) < 1.1
        assert hits.num_rows == 3


def test_caption_vectors_can_be_searched(table: Table, engine: WordEngine) -> None:
    found = table.search("yellow boat", column="caption_vector", k=3)
    np.testing.assert_allclose(found["score"].to_numpy(), 1.0, atol=2e-3)


def test_count_follows_the_filters(table: Table) -> None:
    assert table.count() == table.num_rows
    assert table.count(Query(where="views < 10", any_tags=("red",))) == 2


def test_get_keeps_the_order_and_leaves_out_strangers(table: Table) -> None:
    found = table.get(["row-000009", "no-such", "row-000002"], ("id",))
    assert found["id"].to_pylist() == ["row-000009", "row-000002"]


def test_hybrid_ranks_the_word_that_only_the_caption_has_first(indexed_uri: str, engine: WordEngine) -> None:
    table = open_table(indexed_uri, engine=engine)
    found = table.search("number 1234", hybrid=True, text_weight=1.0, k=5)
    assert found["id"][0].as_py() == "row-001234"
    truth = dict(exact(table, engine.encode_texts(["number 1234"])[0].astype(np.float64)))
    for row in found.to_pylist():
        assert row["score"] == pytest.approx(truth[row["id"]], abs=2e-3)
    filtered = table.search("number 1234", hybrid=True, where="views < 100", k=5)
    assert len(filtered) == 5
    assert all(row["views"] < 100 for row in filtered.to_pylist())


def test_hybrid_weight_zero_is_the_vector_ranking(indexed_uri: str, engine: WordEngine) -> None:
    table = open_table(indexed_uri, engine=engine)
    fused = table.search("red shoe", hybrid=True, text_weight=0.0, k=10)["id"].to_pylist()
    assert fused == table.search("red shoe", k=10)["id"].to_pylist()


def test_hybrid_without_full_text_index_says_what_to_do(plain_uri: str, engine: WordEngine) -> None:
    with pytest.raises(UserError) as raised:
        open_table(plain_uri, engine=engine).search("red", hybrid=True)
    assert "clipmill index" in raised.value.hint


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 10**9}, "10000"),
        ({"offset": -1}, "offset"),
        ({"min_score": 7.0}, "min_score"),
        ({"columns": ("captoin",)}, "captoin"),
        ({"column": "caption"}, "no vector column"),
        ({"any_tags": tuple(str(i) for i in range(500))}, "500"),
        ({"any_tags": ("a\x00b",)}, "NUL"),
    ],
)
def test_options_out_of_range_are_refused(plain_uri: str, engine: WordEngine, options: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        open_table(plain_uri, engine=engine).search("red", **options)


def test_vectors_of_another_shape_or_without_length_are_refused(plain_uri: str) -> None:
    table = open_table(plain_uri)
    for vector in ([1.0, 2.0], [0.0] * 64, [float("nan")] * 64, "text", [[[1.0]]]):
        with pytest.raises(UserError):
            table.search(vector=vector)


def test_huge_numbers_in_a_query_vector_do_not_overflow(plain_uri: str) -> None:
    table = open_table(plain_uri)
    small = table.search(vector=[1.0] * 64, k=3)["id"].to_pylist()
    assert table.search(vector=[3e38] * 64, k=3)["id"].to_pylist() == small


def test_an_unknown_id_is_named(plain_uri: str) -> None:
    with pytest.raises(UserError, match="nobody"):
        open_table(plain_uri).search(like="nobody")
    with pytest.raises(UserError, match="has no vector"):
        open_table(plain_uri).search(like="row-000003")


def test_another_models_engine_is_refused(plain_uri: str) -> None:
    with pytest.raises(UserError, match="another words"):
        open_table(plain_uri, engine=WordEngine(weights="other")).search("red")


def test_opposite_examples_cancel_out(plain_uri: str, engine: WordEngine) -> None:
    vector = engine.encode_texts(["red"])[0]
    with pytest.raises(UserError, match="cancel"):
        open_table(plain_uri).search(vector=[vector, -vector])


def test_vectors_in_memory_follow_the_table(tmp_path, engine: WordEngine) -> None:
    uri = make_table(tmp_path, TableOptions(rows=100))
    table = open_table(uri, engine=engine)
    assert not table.warm(memory_bytes=1000)  # too small a budget: nothing is kept, everything still works
    assert table.warm()
    append(uri, TableOptions(rows=50, start=100))
    assert table.refresh()
    found = table.search("red shoe", where="views >= 100", k=100)
    assert found["views"].to_pylist()
    assert min(found["views"].to_pylist()) >= 100
    assert len(found) == 49  # row 100 has no vector


def test_a_column_that_only_the_newest_version_has_is_told_so(tmp_path) -> None:
    """As `retag --as` leaves it on a published table, whose readers follow `live`."""
    from clipmill.jobs.exploring.facets import facets

    uri = make_table(tmp_path / "db", TableOptions(rows=20))
    dataset = Tables.at(uri).open()
    dataset.tags.create("live", dataset.version)
    dataset.add_columns({"tags__two": "tags"})
    table = open_table(uri, engine=WordEngine())
    wanted = f"`clipmill publish TABLE` shows it to them, and --version {dataset.version} reads it"
    for asked in ({"where": "tags__two IS NULL"}, {"columns": ("id", "tags__two")}, {"tags_column": "tags__two"}):
        with pytest.raises(UserError) as told:
            table.search("red", **asked)
        assert wanted in told.value.hint, asked
    with pytest.raises(UserError) as told:
        facets(table, columns=("tags__two",))
    assert wanted in told.value.hint
    with pytest.raises(UserError) as told:
        table.search("red", where="tags__tow IS NULL")
    assert wanted not in told.value.hint


def test_versions_tags_and_live(tmp_path) -> None:
    import lance

    uri = make_table(tmp_path, TableOptions(rows=100))
    append(uri, TableOptions(rows=50, start=100))
    follower = open_table(uri)
    assert follower.num_rows == 150
    dataset = lance.dataset(f"{uri}.lance")
    dataset.tags.create("live", 1)
    assert follower.refresh()
    assert follower.num_rows == 100
    assert open_table(uri).num_rows == 100
    assert open_table(uri, version=2).num_rows == 150
    assert open_table(uri, version="live").num_rows == 100
    dataset.tags.update("live", 2)
    assert follower.refresh()
    assert not follower.refresh()
    assert follower.num_rows == 150
    for version in (99, "nope"):
        with pytest.raises(UserError, match="no version"):
            open_table(uri, version=version)
    with pytest.raises(UserError, match="no table"):
        open_table(str(tmp_path / "other"))


def test_answers_become_pandas_rows_and_dicts(plain_uri: str, engine: WordEngine) -> None:
    found = open_table(plain_uri, engine=engine).search("red shoe", k=2)
    assert isinstance(found, pa.Table)
    assert found.to_pylist()[0]["tags"] == ["red", "shoe"]


def test_rows_appended_after_indexing_are_found(tmp_path, engine: WordEngine) -> None:
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    uri = make_table(tmp_path, TableOptions(rows=1500))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    append(uri, TableOptions(rows=300, start=1500, seed=5))
    table = open_table(uri, engine=engine)
    newest = batch(TableOptions(rows=300, start=1500, seed=5)).slice(10, 1)
    vector_D = np.asarray(newest["vector"][0].as_py(), dtype=np.float32)
    for _ in range(2):
        assert table.search(vector=vector_D, k=1)["id"][0].as_py() == newest["id"][0].as_py()
        assert table.search(vector=vector_D, k=1, where="shard >= 0")["id"][0].as_py() == newest["id"][0].as_py()
        assert table.search("number 1510", hybrid=True, text_weight=1.0, k=1)["id"][0].as_py() == "row-001510"
        build_index(uri, IndexOptions(kind="ivf_rq"))
        table.refresh()
    assert table.snapshot.vector_index("vector").unindexed_rows == 0
