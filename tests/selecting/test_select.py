"""Recipes on small real tables: the same rows each time, counts that add up, shares that are exact, and who stays where
two are equal; checked against plain numpy."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import clipmill
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.selecting import alike, rows
from clipmill.jobs.selecting.alike import quotas
from clipmill.jobs.selecting.card import card, card_json
from clipmill.jobs.selecting.recipe import shipped
from clipmill.jobs.selecting.select import select
from clipmill.jobs.selecting.write import write_list
from clipmill.schemas.job.config import Storage
from tests.examples import examples
from tests.tables import TableOptions, WordEngine, batch, make_table

ROWS = 300


def written(folder: Path, made: pa.Table, name: str = "images") -> Table:
    lance.write_dataset(made, folder / f"{name}.lance", enable_stable_row_ids=True, max_rows_per_file=100)
    return open_table(folder / name, engine=WordEngine())


def replaced(made: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = made.schema.get_field_index(name)
        made = made.set_column(place, made.schema.field(name), pa.array(values, made.schema.field(name).type))
    return made


@pytest.fixture(scope="module")
def made() -> pa.Table:
    """Ids that are not in the table's order, scores of which many are equal and some are none, copies of row 0."""
    plain = batch(TableOptions(rows=ROWS, noise=0.8))
    rng = np.random.default_rng(3)
    scores = [None if n % 29 == 4 else float(s) for n, s in enumerate(rng.integers(0, 12, ROWS) / 16)]
    vectors = plain["vector"].to_pylist()
    for n in (40, 80, 120):
        vectors[n] = vectors[0]
    sizes = rng.integers(50, 900, (2, ROWS)).tolist()
    names = [f"{hashlib.sha256(i.encode()).hexdigest()[:12]}" for i in plain["id"].to_pylist()]
    return replaced(
        plain,
        id=names,
        caption_score=scores,
        vector=vectors,
        width=sizes[0],
        height=sizes[1],
        image_hash=[f"{n:032x}" for n in range(ROWS)],
    )


@pytest.fixture(scope="module")
def table(made: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return written(tmp_path_factory.mktemp("selecting"), made)


def adds_up(found: Any, total: int) -> None:
    at = total
    for step in found.steps:
        assert (step.before, step.before - step.left) == (at, step.after)
        assert 0 <= (step.without_value or 0) <= step.left
        at = step.after
    assert at == found.report.selected == len(found.ids) == len(set(found.ids))
    assert found.ids == sorted(found.ids)


@pytest.mark.parametrize("size", [{"max_aspect": 3}, {"min_side": 100}, {"min_width": 100}])
def test_sizes_that_nobody_measured_are_no_value(made: pa.Table, tmp_path: Path, size: dict[str, int]) -> None:
    """Imported vectors have 0 pixels there: no picture with a good shape."""
    width, height = [0, 300, 0, 50] * (ROWS // 4), [0, 200, 200, 200] * (ROWS // 4)
    found = select(written(tmp_path, replaced(made, width=width, height=height)), [{"size": size}])
    adds_up(found, ROWS)
    assert found.steps[0].without_value == ROWS // 2
    fits = [False, True, False, False] * (ROWS // 4)
    assert set(found.ids) == {i for i, fit in zip(made["id"].to_pylist(), fits, strict=True) if fit}


seeds = st.integers(0, 3)
shares = st.sampled_from([0.01, 0.1, 0.29, 1 / 3, 0.5, 0.7, 1.0])
bounds = st.one_of(shares.map(lambda s: {"top": s}), st.sampled_from([0.0, 0.25, 0.5]).map(lambda x: {"at_least": x}))
STEP = st.one_of(
    st.sampled_from(["license = 'cc0'", "views > 40", "caption LIKE '%red%'"]).map(lambda s: {"where": s}),
    st.fixed_dictionaries({"min_side": st.integers(1, 400), "max_aspect": st.sampled_from([1.5, 3.0])}).map(
        lambda s: {"size": s}
    ),
    st.sampled_from([{"any": ["red", "blue"]}, {"none": "dog"}, {"all": ["red", "shoe"]}]).map(lambda s: {"tags": s}),
    bounds.map(lambda b: {"score": {"column": "caption_score", **b}}),
    bounds.map(lambda b: {"score": {"tag": "red", **b}}),
    bounds.map(lambda b: {"near": {"words": "a red shoe", **b}}),
    st.integers(1, 6).map(lambda n: {"caption": {"min_words": n}}),
    st.sampled_from([{"threshold": 0.9}, {"keep": "best", "order_by": "caption_score"}, {"exact": True}]).map(
        lambda d: {"duplicates": d}
    ),
    st.fixed_dictionaries({"clusters": st.integers(1, 12), "at_most": st.integers(1, 40), "seed": seeds}).map(
        lambda c: {"per_cluster": c}
    ),
    st.fixed_dictionaries({"n": st.integers(1, 60), "seed": seeds}).map(lambda d: {"diverse": d}),
    st.fixed_dictionaries({"share": shares, "seed": seeds}).map(lambda d: {"sample": d}),
    st.fixed_dictionaries({"n": st.integers(1, 200), "seed": seeds}).map(lambda d: {"sample": d}),
)


@examples(40, HealthCheck.function_scoped_fixture)
@given(steps=st.lists(STEP, min_size=1, max_size=4))
def test_counts_add_up_and_the_same_recipe_gives_the_same_rows(table: Table, steps: list[dict[str, Any]]) -> None:
    found = select(table, steps)
    adds_up(found, ROWS)
    again = select(table, steps)
    assert again.rows.equals(found.rows)
    assert card_json(again.report) == card_json(found.report)


@examples(40, HealthCheck.function_scoped_fixture)
@given(share=st.integers(1, 100), of=st.sampled_from(["caption_score", "views", "width"]))
def test_a_share_is_exact_and_equal_scores_stay_by_their_id(table: Table, made: pa.Table, share: int, of: str) -> None:
    values, ids = made[of].to_pylist(), made["id"].to_pylist()
    ranked = sorted((-value, name) for value, name in zip(values, ids, strict=True) if value is not None)
    count = len(ranked) * share // 100  # 29 % of 100 are 29, not the 28 that 0.29 * 100 is
    found = select(table, [{"score": {"column": of, "top": share / 100}}])
    assert found.ids == sorted(name for _, name in ranked[:count])
    (step,) = found.steps
    assert step.without_value == values.count(None)
    assert step.least == (-ranked[count - 1][0] if count else None)


def test_scores_are_compared_as_the_column_holds_them(tmp_path: Path, made: pa.Table) -> None:
    """0.7 as a float32 is less than 0.7."""
    whole = written(tmp_path, replaced(made, caption_score=[0.7, 0.1, float("nan"), None] * (ROWS // 4)))
    (step,) = select(whole, [{"score": {"column": "caption_score", "at_least": 0.7}}]).steps
    assert (step.after, step.without_value) == (ROWS // 4, ROWS // 2)
    (step,) = select(whole, [{"score": {"column": "caption_score", "at_most": 0.1}}]).steps
    assert step.after == ROWS // 4


def test_neither_the_order_of_the_files_nor_rows_that_come_later_change_what_a_hash_draws(
    table: Table, made: pa.Table, tmp_path: Path
) -> None:
    recipe = [{"score": {"column": "caption_score", "top": 0.5}}, {"sample": {"n": 50, "seed": 7}}]
    turned = written(tmp_path, made.take(pa.array(np.random.default_rng(0).permutation(ROWS))), "turned")
    assert select(turned, recipe).ids == select(table, recipe).ids
    some = made.slice(0, 200)
    drawn = set(select(written(tmp_path, some, "some"), [{"sample": {"share": 0.4, "seed": 1}}]).ids)
    later = set(select(table, [{"sample": {"share": 0.4, "seed": 1}}]).ids)
    assert drawn == later & set(some["id"].to_pylist())
    twice = select(table, [{"sample": {"share": 0.5}}, {"sample": {"share": 0.5}}]).steps
    assert 0 < twice[1].after < twice[0].after  # another draw, not all of the same again


def test_where_few_rows_are_left_only_those_are_read(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: list[dict[str, Any]] = [
        {"where": "views < 60"},
        {"score": {"column": "caption_score", "top": 0.9}},
        {"caption": {"min_words": 3}},
        {"score": {"tag": "red", "at_least": 0.1}},
        {"near": {"words": "red", "top": 0.9}},
    ]
    scanned = select(table, recipe)
    monkeypatch.setattr(rows, "FEW", 1)
    monkeypatch.setattr(rows, "BATCH_ROWS", 7)
    assert select(table, recipe).rows.equals(scanned.rows)


def test_of_copies_the_one_that_was_asked_for_stays(table: Table, made: pa.Table) -> None:
    group = {made["id"][n].as_py(): n for n in (0, 40, 80, 120)}
    pixels = np.array(made["width"].to_pylist()) * np.array(made["height"].to_pylist())
    scores = made["caption_score"].to_pylist()

    def scored(name: str) -> float:
        return -1 if scores[group[name]] is None else scores[group[name]]

    for asked, stays in (
        ({"keep": "largest"}, max(group, key=lambda name: pixels[group[name]])),
        ({"keep": "lowest_id"}, min(group)),
        ({"keep": "best", "order_by": "caption_score"}, min(group, key=lambda name: (-scored(name), name))),
    ):
        found = select(table, [{"duplicates": {"threshold": 0.999, **asked}}])
        assert set(group) & set(found.ids) == {stays}
        adds_up(found, ROWS)


def test_at_most_so_many_of_a_cluster_stay_and_those_are_the_best(table: Table, made: pa.Table) -> None:
    asked = {"clusters": 8, "at_most": 5, "order_by": "views", "seed": 2}
    found = select(table, [{"per_cluster": asked}])
    every = rows.every_row(table)
    clusters = alike.clustered(every, "vector", 8, 2).cluster_N
    ids = sorted(made["id"].to_pylist())
    views = dict(zip(made["id"].to_pylist(), made["views"].to_pylist(), strict=True))
    expected = []
    for cluster in range(8):
        members = [name for name, of in zip(ids, clusters, strict=True) if of == cluster]
        expected += sorted(members, key=lambda name: -views[name])[:5]
    assert found.ids == sorted(expected)
    assert found.steps[0].without_value == made["vector"].null_count


def test_a_diverse_sample_has_more_kinds_than_one_by_chance(tmp_path: Path) -> None:
    """Of a thousand pictures nearly all are of one kind, and thirty kinds are rare."""
    plain = batch(TableOptions(rows=600, noise=0.1))
    rng = np.random.default_rng(0)
    common, rare = rng.standard_normal(64), rng.standard_normal((30, 64))
    kinds = [n if n < 30 else -1 for n in range(600)]
    vectors = [(common if k < 0 else rare[k]) + 0.05 * rng.standard_normal(64) for k in kinds]
    table = written(tmp_path, replaced(plain, vector=[v.astype(np.float16) for v in vectors]))
    found = select(table, [{"diverse": {"n": 40, "seed": 0}}])
    adds_up(found, 600)
    assert len(found.ids) == 40
    assert {f"row-{n:06d}" for n in range(30)} <= set(found.ids)


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20), n=st.integers(1, 400))
def test_every_cluster_gives_as_many_as_any_other_as_far_as_it_has_them(sizes: list[int], n: int) -> None:
    sizes_K = np.array(sizes)
    drawn_K = quotas(sizes_K, n)
    assert drawn_K.sum() == min(n, sum(sizes))
    assert (drawn_K <= sizes_K).all()
    short = drawn_K[drawn_K < sizes_K]
    assert not len(short) or drawn_K.max() <= short.min() + 1


def test_cosines_with_words_are_those_of_a_search(table: Table) -> None:
    found = select(table, [{"near": {"words": "red shoe", "top": 0.1}}])
    searched = table.search("red shoe", k=len(found.ids), columns="id", exact=True)
    by_id = dict(zip(searched["id"].to_pylist(), searched["score"].to_pylist(), strict=True))
    listed = dict(zip(found.ids, found.rows["near:red shoe"].to_pylist(), strict=True))
    assert len(set(by_id) & set(listed)) >= len(listed) - 3  # equal ones, such as the copies, are cut otherwise
    assert all(abs(by_id[name] - listed[name]) < 1e-4 for name in set(by_id) & set(listed))


class _Readers(WordEngine):
    """Sees the left half of a picture only, as who reads from the left."""

    def encode_images(self, pixels_BCHW: Any) -> Any:
        return super().encode_images(pixels_BCHW[:, :, :, :16])


def test_captions_are_judged_by_the_mirrored_picture(tmp_path: Path) -> None:
    """The captions say what is on the left; of the first three pictures the right is the same."""
    from PIL import Image

    uri = make_table(tmp_path, TableOptions(rows=12, images=tmp_path))
    left, right = Image.open(tmp_path / "000000.png"), Image.open(tmp_path / "000002.png")  # red, blue
    both = left.copy()
    both.paste(right.crop((24, 0, 48, 48)), (24, 0))
    plain = batch(TableOptions(rows=12))
    hashes, red = [], WordEngine().encode_texts(["red"])[0].astype(np.float16)
    for n in range(12):
        (left if n < 3 else both).save(tmp_path / f"{n:06d}.png")
        hashes.append(xxhash.xxh3_128_hexdigest((tmp_path / f"{n:06d}.png").read_bytes()))
    (tmp_path / "000002.png").write_bytes(b"something else")
    made = replaced(
        plain,
        uri=[str(tmp_path / f"{n:06d}.png") for n in range(12)],
        image_hash=hashes,
        caption_vector=[None if n == 1 else red for n in range(12)],
    )
    lance.write_dataset(made, f"{uri}.lance", mode="overwrite", enable_stable_row_ids=True)
    found = select(open_table(uri, engine=_Readers()), [{"mirror": {"at_least": 0.9}}])
    assert found.ids == ["row-000000"]
    (step,) = found.steps
    assert step.without_value == 2
    assert step.note == "pictures that could not be read: 1 no longer the bytes it was made from"
    assert select(open_table(uri, engine=_Readers()), [{"mirror": {"at_most": 0.9}}]).report.selected == 9


def test_a_tags_score_is_that_of_the_row(table: Table, made: pa.Table) -> None:
    found = select(table, [{"score": {"tag": "red", "at_least": 0.5}}])
    assert found.ids == sorted(
        name for name, tags in zip(made["id"].to_pylist(), made["tags"].to_pylist(), strict=True) if "red" in tags
    )
    assert found.rows["tag_scores:red"].to_pylist() == pytest.approx([0.6] * len(found.ids))
    assert found.steps[0].without_value == ROWS - len(found.ids)


def test_the_list_and_the_card_say_what_was_done(table: Table, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: a | set\nsteps:\n- score: {column: caption_score, top: 0.3}\n")
    found = clipmill.select(table, tmp_path / "recipe.yaml")
    for name in ("one", "two"):
        write_list(found, f"{tmp_path}/{name}.parquet", Storage())
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    listed = pq.read_table(tmp_path / "one.parquet")
    assert listed.column_names == ["id", "uri", "caption_score"]
    assert listed["id"].to_pylist() == found.ids
    about = json.loads(listed.schema.metadata[b"clipmill.selection"])
    recipe = (tmp_path / "recipe.yaml").read_bytes()
    assert about["recipe_hash"] == hashlib.sha256(recipe).hexdigest()
    assert about["version"] == table.version
    said = card(found.report)
    assert "# a | set\n" in said
    assert f"| 300 | {300 - len(found.ids)} | {len(found.ids)} | 11 |" in said
    assert recipe.decode() in said
    assert json.loads(card_json(found.report))["steps"][0]["without_value"] == 11


@pytest.mark.parametrize("name", sorted(set(shipped()) - {"datacomp-basic", "laion-2b"}))
def test_the_recipes_that_come_along_run(table: Table, name: str) -> None:
    adds_up(select(table, name), ROWS)


def test_datacomps_share_is_theirs_but_for_equal_scores(table: Table, made: pa.Table) -> None:
    """As `get_threshold` and the helper of baselines/apply_filter.py have it."""
    values = np.array([v for v in made["caption_score"].to_pylist() if v is not None], np.float32)
    n = int(len(values) * 0.3)
    threshold = -np.sort(-values)[n]
    theirs = int((values >= threshold).sum())
    (step,) = select(table, "datacomp-clip-score").steps
    assert step.after == n == int(Fraction("0.3") * len(values))
    assert theirs > step.after
    assert step.least is not None
    assert step.least >= threshold


def test_captions_by_their_language(tmp_path: Path, made: pa.Table) -> None:
    pytest.importorskip("py3langid")
    texts = [
        "a brown dog runs over the green grass in the park",
        "ein brauner Hund läuft im Park über die grüne Wiese",
        "un chien brun court sur l'herbe verte du parc",
        "dog park",
        None,
    ]
    table = written(tmp_path, replaced(made, caption=texts * (ROWS // 5), width=[300] * ROWS, height=[300] * ROWS))
    for language, words in (("en", texts[0]), (["de", "fr"], texts[1])):
        found = select(table, [{"caption": {"min_words": 3, "language": language}}])
        captions = table.get(found.ids[:50], "caption")["caption"].to_pylist()
        assert words in captions
        assert set(captions) <= set(texts[:1] if language == "en" else texts[1:3])
        assert found.steps[0].without_value == ROWS // 5
        assert found.steps[0].note.startswith("languages by py3langid")
    assert len(select(table, "datacomp-basic").ids) == ROWS // 5
