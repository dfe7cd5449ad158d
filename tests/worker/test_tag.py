"""Tags against the definition, computed plainly in float64; and the ways text vectors come to be."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Tags
from clipmill.schemas.job.vocabulary import Label, Vocabulary
from clipmill.schemas.model import Fingerprint, Preprocess
from clipmill.workers.engine import OutOfMemory
from clipmill.workers.tag import Tagger, embed_labels
from tests.examples import examples

DIM = 16


def unit(matrix: Any) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def fingerprint(scale: float = 100.0, bias: float | None = None) -> Fingerprint:
    return Fingerprint(
        model="m",
        pretrained="p",
        weights_sha256="0",
        preprocess=Preprocess(size_HW=(8, 8), mean=(0, 0, 0), std=(1, 1, 1)),
        tokenizer="t",
        dim=DIM,
        logit_scale=scale,
        logit_bias=bias,
    )


class WordEngine:
    """A text tower whose vector is a fixed random one per text; counts texts and can be short of memory."""

    def __init__(self, *, fits: int = 10**9, broken: str = "") -> None:
        self.fingerprint, self.dim, self.batch_size = fingerprint(), DIM, 8
        self.fits, self.broken = fits, broken
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        if len(texts) > self.fits:
            raise OutOfMemory
        self.texts += texts
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> np.ndarray:
        if self.broken and self.broken in text:
            return np.full(DIM, np.nan, np.float32)
        seed = int.from_bytes(text.encode()[-64:], "big") % 2**32
        return unit(np.random.default_rng(seed).normal(size=(1, DIM)))[0]

    prepare = encode_images = self_check = None


def vocabulary(counts: dict[str, int]) -> Vocabulary:
    labels = [Label(name=f"{facet}{i}", facet=facet) for facet, count in counts.items() for i in range(count)]
    return Vocabulary(name="v", labels=tuple(labels))


def by_definition(
    tagger: Tagger, vectors: np.ndarray, scale: float, bias: float | None
) -> list[list[tuple[str, float]]]:
    rows = []
    names = [label.name for label in tagger.vocabulary.labels]
    for vector in vectors.astype(np.float64):
        logits = scale * (tagger.vectors_LD.astype(np.float64) @ vector)
        found: list[tuple[float, int]] = []
        for _, start, stop in tagger.vocabulary.facets:
            part = logits[start:stop]
            scores = 1 / (1 + np.exp(-(part + bias))) if bias is not None else np.exp(part) / np.exp(part).sum()
            best = sorted((-score, start + i) for i, score in enumerate(scores) if score >= tagger.tags.min_score)
            found += best[: tagger.tags.top_k]
        rows.append([(names[index], -score) for score, index in sorted(found)])
    return rows


@examples(60)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_rows=st.integers(0, 150),
    top_k=st.integers(1, 6),
    min_score=st.sampled_from([0.0, 0.05, 0.31, 1.0]),
    bias=st.sampled_from([None, -3.0]),
    seed=st.integers(0, 1000),
)
def test_tags_are_what_the_definition_says(counts, num_rows, top_k, min_score, bias, seed):
    rng = np.random.default_rng(seed)
    words = vocabulary({f"f{i}" if len(counts) > 1 else "": count for i, count in enumerate(counts)})
    labels = unit(rng.normal(size=(len(words.labels), DIM)))
    vectors = unit(rng.normal(size=(max(1, num_rows), DIM)))[:num_rows]
    tagger = Tagger.from_vectors(words, labels, fingerprint(10.0, bias), Tags(top_k=top_k, min_score=min_score))
    names, scores = tagger.tag(vectors)
    expected = by_definition(tagger, vectors, 10.0, bias)
    assert len(names) == len(scores) == num_rows
    for got, score, want in zip(names.to_pylist(), scores.to_pylist(), expected, strict=True):
        # A score within rounding of min_score may fall on either side of it.
        edge = [s for _, s in want if abs(s - min_score) < 1e-5] and min_score > 0
        if not edge:
            assert got == [name for name, _ in want]
            assert score == pytest.approx([s for _, s in want], rel=2e-5)


def test_scores_of_a_facet_sum_to_one_and_facets_do_not_compete():
    rng = np.random.default_rng(3)
    words = vocabulary({"a": 3, "b": 4})
    tagger = Tagger.from_vectors(words, unit(rng.normal(size=(7, DIM))), fingerprint(20.0), Tags(top_k=9, min_score=0))
    names, scores = tagger.tag(unit(rng.normal(size=(5, DIM))))
    for got, score in zip(names.to_pylist(), scores.to_pylist(), strict=True):
        for facet in "ab":
            total = sum(s for name, s in zip(got, score, strict=True) if name.startswith(facet))
            assert total == pytest.approx(1, abs=1e-5)
        assert score == sorted(score, reverse=True)


def test_equal_labels_keep_the_order_of_the_vocabulary():
    words = vocabulary({"": 20})
    tagger = Tagger.from_vectors(
        words, np.tile(unit(np.ones((1, DIM))), (20, 1)), fingerprint(), Tags(top_k=3, min_score=0)
    )
    names, scores = tagger.tag(unit(np.ones((2, DIM))))
    assert names.to_pylist() == [["0", "1", "2"]] * 2
    assert scores.to_pylist()[0] == pytest.approx([0.05] * 3)


def test_a_score_of_exactly_min_score_is_kept():
    words = vocabulary({"": 2})
    tagger = Tagger.from_vectors(words, np.tile(unit(np.ones((1, DIM))), (2, 1)), fingerprint(), Tags(min_score=0.5))
    _, scores = tagger.tag(unit(np.ones((1, DIM))))
    assert scores.to_pylist() == [[0.5, 0.5]]


def test_a_row_that_is_not_finite_has_no_tags_and_harms_no_other():
    rng = np.random.default_rng(0)
    words = vocabulary({"": 6})
    tagger = Tagger.from_vectors(words, unit(rng.normal(size=(6, DIM))), fingerprint(), Tags(min_score=0))
    vectors = unit(rng.normal(size=(3, DIM)))
    alone = tagger.tag(vectors[[0, 2]])[0].to_pylist()
    vectors[1] = np.nan
    names, scores = tagger.tag(vectors)
    assert names.to_pylist() == [alone[0], [], alone[1]]
    assert scores.to_pylist()[1] == []


def test_float16_vectors_from_the_table_give_the_same_tags():
    rng = np.random.default_rng(1)
    words = vocabulary({"": 50})
    tagger = Tagger.from_vectors(words, unit(rng.normal(size=(50, DIM))), fingerprint(30.0), Tags(min_score=0.05))
    vectors = unit(rng.normal(size=(200, DIM)))
    full, stored = tagger.tag(vectors)[0].to_pylist(), tagger.tag(vectors.astype(np.float16))[0].to_pylist()
    assert sum(a[:1] == b[:1] for a, b in zip(full, stored, strict=True)) >= 198


def test_a_label_vector_is_the_normalised_mean_over_templates_and_synonyms():
    engine = WordEngine()
    words = Vocabulary(
        name="v",
        labels=(Label(name="cat", synonyms=("kitten",)), Label(name="dog")),
        templates=("a photo of a {label}.", "the {label}"),
    )
    vectors = embed_labels(words, engine)
    cat = [engine.vector(t) for t in ("a photo of a cat.", "the cat", "a photo of a kitten.", "the kitten")]
    assert vectors[0] == pytest.approx(unit(np.mean(cat, axis=0)[None])[0], abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_each_text_is_encoded_once_and_short_memory_is_survived():
    labels = tuple(Label(name=f"w{i}", synonyms=("thing",)) for i in range(40))
    words = Vocabulary(name="v", labels=labels, templates=("a {label}", "the {label}", "my {label}"))
    roomy, tight = WordEngine(), WordEngine(fits=7)
    expected = embed_labels(words, roomy)
    assert len(roomy.texts) == len(set(roomy.texts)) == 41 * 3
    assert embed_labels(words, tight) == pytest.approx(expected, abs=1e-6)
    assert sorted(tight.texts) == sorted(roomy.texts)


def test_a_model_that_fails_on_a_label_is_named():
    with pytest.raises(UserError, match="label 'dog'"):
        embed_labels(Vocabulary(name="v", labels=(Label(name="cat"), Label(name="dog"))), WordEngine(broken="dog"))


def test_memory_that_is_short_for_one_text_is_not_hidden():
    with pytest.raises(OutOfMemory):
        embed_labels(Vocabulary(name="v", labels=(Label(name="cat"),)), WordEngine(fits=0))


def test_metadata_names_what_decides_a_tag():
    words = vocabulary({"": 2})
    tagger = Tagger.build(words, WordEngine(), Tags(top_k=2, min_score=0.2))
    assert words.hash in tagger.metadata_json
    assert '"top_k": 2' in tagger.metadata_json
    assert '"min_score": 0.2' in tagger.metadata_json


def test_ten_thousand_labels_cost_under_five_milliseconds_an_image():
    """Of the processor's time, whatever else the machine does, with a wide bound (measured alone: 0.2 to 0.3 ms); a
    pass per label or per row of Python objects would be far over it."""
    rng = np.random.default_rng(0)
    words = vocabulary({"": 10_000})
    tagger = Tagger.from_vectors(words, unit(rng.normal(size=(10_000, 512))), fingerprint(), Tags())
    vectors = unit(rng.normal(size=(128, 512)))
    tagger.tag(vectors)
    started = time.process_time()
    tagger.tag(vectors)
    assert (time.process_time() - started) / 128 < 0.005


@pytest.mark.parametrize(
    ("scale", "top_k", "min_score"),
    [(8.0, 5, 0.1), (1.0, 1, 0.01), (0.25, 3, 0.002), (0.25, 100, 0.002), (0.5, 4, 0.0), (2.0, 2, 0.3)],
)
@pytest.mark.parametrize("facets", [{"": 150}, {"a": 120, "b": 30}])
def test_labels_that_are_passed_over_early_change_no_bit(
    scale: float, top_k: int, min_score: float, facets: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a softmax of all labels, all divided and all sorted. Whole numbers, so that every product is exact: many
    labels are equal, at the edge of top_k and of the threshold too."""
    monkeypatch.setattr("clipmill.workers.tag._LOGITS_AT_ONCE", 0)  # several blocks of rows
    rng = np.random.default_rng(1)
    words = vocabulary(facets)
    labels_LD, vectors_BD = (rng.integers(-2, 3, (n, DIM)).astype(np.float32) for n in (150, 200))
    vectors_BD[7] = np.nan
    tagger = Tagger(words, labels_LD, Tags(top_k=top_k, min_score=min_score), logit_scale=scale, logit_bias=None)
    tags, scores = (column.to_pylist() for column in tagger.tag(vectors_BD))
    for row, vector_D in enumerate(vectors_BD):
        found: list[tuple[float, int]] = []
        for _, first, stop in words.facets if row != 7 else ():
            logits_1L = (vector_D @ (labels_LD[first:stop] * np.float32(scale)).T)[None]
            e_1L = np.exp(logits_1L - logits_1L.max())
            score_L = (e_1L / e_1L.sum(axis=1, keepdims=True))[0]
            best = sorted((-float(s), first + n) for n, s in enumerate(score_L) if s >= np.float32(min_score) and s > 0)
            found += best[:top_k]
        found.sort()
        assert tags[row] == [words.labels[n].name for _, n in found]
        assert scores[row] == [-s for s, _ in found]
