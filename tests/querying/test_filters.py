"""Hostile and mistaken filters: a sentence, never a crash, never an unbounded allocation."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clipmill.jobs.querying import deadline
from clipmill.jobs.querying.at_hand.warm import passing
from clipmill.jobs.querying.filters import check_where, conjunction, quote, tags_predicates
from clipmill.jobs.querying.nearest import _passes
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.querying.request import QueryFields
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.schemas.errors import UserError
from tests.examples import examples
from tests.tables import COLOURS, THINGS, TableOptions, append, make_table

COLUMNS = ["id", "caption", "width", "height", "tags", "license", "views", "caption_score"]


@pytest.mark.parametrize(
    "where",
    [
        "width > 512",
        "license IN ('cc0', 'cc-by') AND NOT (views BETWEEN 3 AND 9)",
        "caption LIKE '%it''s%' OR caption IS NULL",
        "array_has_any(tags, ['red', 'blue'])",
        "lower(caption) = 'x' AND length(caption) < 10",
        "`width` > 1000 and views % 2 = 0",
        "regexp_like(caption, '(a+)+$')",
        "cast(views as string) = '3'",
        "(views > 3) IS NOT TRUE AND (views > 3) = false",
        " AND ".join(["width > 0"] * 100),  # 199 operators
        "(" * 20 + "width > 0" + ")" * 20,
        f"id IN ({', '.join(repr(str(n)) for n in range(9_000))})",
        " OR ".join(["regexp_like(lower(caption), 'x')"] * 16),
    ],
)
def test_honest_predicates_pass_and_run(plain_uri: str, where: str) -> None:
    check_where(where, COLUMNS)
    open_table(plain_uri).search(where=where, k=1)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("widht > 3", "widht"),
        ("length(repeat('a', 10000000000)) > 1", "repeat"),
        ("lpad('a', 1000000000, 'b') = 'x'", "lpad"),
        ("id IN (SELECT id FROM other)", "SELECT"),
        ("1=1; DROP TABLE images", ";"),
        ("1=1 -- comment", "'-'"),
        ("1=1 /* comment */", "'/'"),
        ("license = 'cc0", "'"),
        ("((width > 3)", "parentheses"),
        (") or (", "parentheses"),
        ("", "empty"),
        (" \t\n", "empty"),
        ("width >", "cannot be used"),
        ("views", "boolean"),
        ("views > 'many'", "convert"),
        ("caption @ 'x'", "'@'"),
        ("\x00", "character 1"),
        ("🙂 = 1", "🙂"),
        ("_rowid > 1", "_rowid"),
        ("caption = '\ud800'", "surrogate"),
        ("regexp_like(caption, '(((')", "unclosed group"),
        ("regexp_like(caption, '(a{1000}){1000}')", "cannot be used"),
        ("license =", "an expression"),
        ("abs(-9223372036854775808) > 0", "overflow"),
        (" AND ".join(["width > 0"] * 101), "201 operators"),
        ("width" + " + 1" * 200 + " > 0", "201 operators"),
        (" OR ".join(["lower(caption) = 'x'"] * 68), "203 operators and function calls"),
        ("(" * 21 + "width > 0" + ")" * 21, "21 levels"),
        ("make_array(" * 21 + "1" + ")" * 21 + " = tags", "21 levels"),
        ("CASE WHEN true THEN " * 21 + "true" + " END" * 21, "21 levels"),
        (" OR ".join(["regexp_like(caption, 'x')"] * 17), "17 regular expressions"),
        ("regexp_match(caption, 'x') IS NOT NULL", "regexp_match, which is not offered"),
        ("NOT ((views > 3) IS true)", "IS TRUE"),
        ("regexp_like(caption, caption)", "not a plain string"),
        ("regexp_like(caption, 'a' || 'b')", "not a plain string"),
        ("regexp_like(lower(caption), lower('a'))", "not a plain string"),
        (f"id IN ({', '.join(['1'] * 10_001)})", "20000 terms"),
        ("x" * 2_000_000, "characters"),
        ("cast(caption as int) > 3", "Cast"),
        ("views / 0 = 1", "zero"),
        ("cast(tags as int) = 1", "filter cannot be used: Unsupported CAST"),
        ("cast(vector as string) = 'a'", "filter cannot be used: Unsupported CAST"),
    ],
)
def test_mistakes_and_attacks_become_one_sentence(plain_uri: str, where: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        open_table(plain_uri).search(where=where, k=5)
    assert words in raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message
    assert ".rs" not in raised.value.message
    assert len(raised.value.message) < 400


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UserError) as raised:
        check_where("widht > 3", COLUMNS)
    assert raised.value.hint.startswith("did you mean width? a text takes single quotes")


@given(st.text(max_size=60))
@examples(60)
def test_any_label_is_only_ever_a_label(plain_uri: str, label: str) -> None:
    """Quotes, backslashes, emoji and SQL in a label match nothing and break nothing."""
    label = label.encode("utf-8", "replace").decode()
    # Hypothesis also draws words that it finds in our code: the table's own labels are among them.
    assume("\x00" not in label and label not in {*COLOURS, *THINGS})
    assert len(open_table(plain_uri).search(any_tags=(label,), k=5)) == 0


@given(st.text(alphabet="abx'\"`();,=<>%-/*[]. \n0123456789🙂é", max_size=40))
@examples(150)
def test_any_text_as_filter_gives_rows_or_a_user_error(plain_uri: str, where: str) -> None:
    with contextlib.suppress(UserError):
        open_table(plain_uri).search(where=where, k=1)


WHERE = (
    "views % 3 = 1",
    "NOT (views > 300 AND caption LIKE '%red%')",
    "caption IS NULL OR length(caption) < 20",
    "array_has_any(tags, ['red', 'boat']) AND NOT array_has(tags, 'shoe')",
    "NOT regexp_like(caption, 'number [0-9]*7$')",
    "coalesce(nullif(license, 'cc0'), '') = ''",
    "(caption > 'a red') IS NOT TRUE",
    "caption_score < 0.8 AND NOT isnan(caption_score)",
    "1 = 1",
)


@pytest.mark.parametrize("where", WHERE)
def test_a_filter_means_the_same_of_all_rows_and_of_a_few(plain_uri: str, where: str) -> None:
    """A server works it out for just the rows that it looks at, in whatever order their ids come."""
    check_where(where, COLUMNS)
    snapshot = open_table(plain_uri).snapshot
    rows = snapshot.dataset.scanner(columns=[], with_row_id=True).to_table()[ROW_ID].to_numpy()
    passes = snapshot.dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()[ROW_ID].to_numpy()
    for some in (rows, rows[::-1], rows[:1], rows[1:3]):
        np.testing.assert_array_equal(_passes(snapshot, some, where), np.isin(some, passes))


def test_predicates_are_combined_in_parentheses() -> None:
    assert conjunction(["a = 1 OR b = 2", None, "c = 3"]) == "(a = 1 OR b = 2) AND (c = 3)"
    assert conjunction([None]) is None
    assert tags_predicates([], ["it's"], []) == ["array_has_all(tags, make_array('it''s'))"]
    assert quote("a'b") == "'a''b'"


def test_a_filter_that_runs_over_its_time_gives_its_thread_back(
    plain_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Counted in pieces with a look at the clock between them: a filter that passes no row is noticed as well."""
    uri = make_table(tmp_path, TableOptions(rows=50))
    for start in range(50, 500, 50):
        append(uri, TableOptions(rows=50, start=start))
    snapshot = open_table(uri).snapshot
    with deadline.deadline(60):
        assert snapshot.count("views >= 40 AND views < 470") == 430
        assert snapshot.count("views < 0") == 0
        assert len(passing(snapshot, "views >= 35 AND views < 470")) == 435
    monkeypatch.setattr("clipmill.jobs.querying.pieces._PIECE_S", 0.0)  # as if each took long: one fragment at a time
    with deadline.deadline(60):
        assert snapshot.count("views >= 41 AND views < 470") == 429
    looks = iter([0.0] * 4)
    monkeypatch.setattr(deadline.time, "monotonic", lambda: next(looks, 100.0))
    with pytest.raises(deadline.OutOfTime), deadline.deadline(60):
        snapshot.count("views < -1")
    assert snapshot._counts.get("views < -1") is None
    looks = iter([0.0] * 4)
    with pytest.raises(deadline.OutOfTime), deadline.deadline(60):
        passing(snapshot, "views < -1")


@pytest.mark.parametrize("tags", [{"any_tags": "shoe"}, {"all_tags": "shoe"}, {"no_tags": "shoe"}])
def test_tags_of_a_table_without_any_are_a_sentence(tmp_path: Path, tags: QueryFields) -> None:
    import lance

    uri = make_table(tmp_path, TableOptions(rows=20))
    lance.dataset(f"{uri}.lance").drop_columns(["tags", "tag_scores"])
    with pytest.raises(UserError, match=r"^the table has no tags \(hint: ask without tags\)$"):
        open_table(uri).search(**tags)
