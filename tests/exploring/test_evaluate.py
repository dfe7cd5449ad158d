"""Figures worked out by hand, models that know nothing, files that are wrong, and real CLIP vectors."""

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.exploring.evaluate import EvaluateOptions, evaluate, plot
from clipmill.jobs.exploring.evaluate_metrics import retrieval, zero_shot
from clipmill.jobs.querying.open import Table, open_table
from clipmill.schemas.errors import UserError
from tests.conftest import S3
from tests.tables import TableOptions, WordEngine, batch, make_table, normalised


def test_zero_shot_by_hand() -> None:
    labels = np.eye(3, dtype=np.float32)
    images = normalised(np.array([[9, 1, 0], [1, 9, 0], [9, 2, 1], [0, 1, 9]], np.float32))
    found = zero_shot(images, labels, np.eye(3, dtype=bool)[[0, 1, 1, 2]], ["a", "b", "c"])
    assert found.top1 == 0.75
    assert found.top5 == 1.0
    assert found.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found.per_label == {"a": 1.0, "b": 0.5, "c": 1.0}


def test_several_labels_of_a_picture_by_hand() -> None:
    """Right where the nearest label is any of its own; a second of its own is nothing that stands before it."""
    labels = np.eye(4, dtype=np.float32)
    images = normalised(np.array([[9, 8, 1, 0], [1, 9, 8, 0], [8, 1, 0, 9]], np.float32))
    truth = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]], bool)
    found = zero_shot(images, labels, truth, ["a", "b", "c", "d"])
    assert (found.rows, found.several) == (3, 2)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.per_label == {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}
    assert found.confusion == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert found.chance == pytest.approx(5 / 12)


def test_retrieval_by_hand() -> None:
    """Texts 0 and 1 belong to image 0, text 2 to image 1; text 1 is nearer to image 1."""
    images = np.eye(2, dtype=np.float32)
    texts = normalised(np.array([[9, 1], [1, 2], [1, 9]], np.float32))
    found = retrieval(images, texts, np.array([0, 0, 1]))
    assert found.text_to_image.recall["1"] == pytest.approx(2 / 3)
    assert found.text_to_image.mrr == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.image_to_text.recall["1"] == 1.0  # each image's nearest text is one of its own


def test_a_model_that_says_the_same_of_everything_scores_nothing() -> None:
    same = np.tile(normalised(np.ones((1, 8), np.float32)), (100, 1))
    found = retrieval(same, same, np.arange(100))
    assert found.text_to_image.recall["10"] == 0
    assert found.image_to_text.recall["10"] == 0
    shot = zero_shot(same, same[:10], np.eye(10, dtype=bool)[np.arange(100) % 10], [str(n) for n in range(10)])
    assert (shot.top1, shot.top5) == (0, 0)


def write_csv(path: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return make_table(tmp_path, TableOptions(rows=240))


def test_labels_from_a_file_and_from_a_column(uri: str, engine: WordEngine, tmp_path: Path) -> None:
    table = open_table(uri, engine=engine)
    rows = table.snapshot.dataset.to_table(columns=["id", "uri", "tags"]).to_pylist()
    options = EvaluateOptions(templates=("{label}",))
    by_id = write_csv(tmp_path / "l.csv", ("id", "label"), [(r["id"], r["tags"][0]) for r in rows] + [("x", "red")])
    found = evaluate(table, EvaluateOptions(labels=by_id, templates=options.templates))
    assert found.zero_shot is not None
    assert found.zero_shot.top1 > 0.9
    assert (found.rows, found.absent) == (237, 4)  # three rows have no vector, one is not in the table
    by_uri = write_csv(tmp_path / "u.csv", ("uri", "label"), [(r["uri"], r["tags"][1]) for r in rows])
    again = evaluate(table, EvaluateOptions(labels=by_uri, templates=options.templates))
    assert again.zero_shot is not None
    assert len(again.zero_shot.labels) == 10
    assert again.zero_shot.top1 > 0.8
    licenses = evaluate(table, EvaluateOptions(label_column="license"))
    assert licenses.zero_shot is not None
    assert licenses.zero_shot.top1 < 0.6, "licences have nothing to do with the pictures"


@pytest.mark.s3
def test_labels_may_be_parquet_and_lie_in_a_store(s3: S3, uri: str, engine: WordEngine, tmp_path: Path) -> None:
    table = open_table(uri, storage=s3.storage, engine=engine)
    rows = table.snapshot.dataset.to_table(columns=["id", "tags"]).to_pylist()
    labels = pa.table({"id": [row["id"] for row in rows], "label": [row["tags"][0] for row in rows], "more": rows})
    pq.write_table(labels, tmp_path / "l.parquet")
    as_csv = write_csv(tmp_path / "l.csv", ("id", "label"), [(row["id"], row["tags"][0]) for row in rows])
    stored = [s3.put(name, (tmp_path / name).read_bytes()) for name in ("l.parquet", "l.csv")]
    found = [evaluate(table, EvaluateOptions(labels=file)) for file in (as_csv, str(tmp_path / "l.parquet"), *stored)]
    assert found[0].rows == 237
    assert found == [found[0]] * 4
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        evaluate(table, EvaluateOptions(labels=f"{s3.uri}/nowhere.csv"))
    pq.write_table(labels.select(["more"]), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="columns more"):
        evaluate(table, EvaluateOptions(labels=str(tmp_path / "m.parquet")))


def test_every_label_of_a_picture_counts(uri: str, engine: WordEngine, tmp_path: Path) -> None:
    """Colour and thing, a line each, in any order, or a column of lists: all of them count, none is absent."""
    table = open_table(uri, engine=engine)
    rows = table.snapshot.dataset.to_table(columns=["id", "tags"], filter="vector IS NOT NULL").to_pylist()
    lines = [(row["id"], tag) for row in rows for tag in row["tags"]]
    files = [write_csv(tmp_path / f"{order[0][1]}.csv", ("id", "label"), order) for order in (lines, lines[::-1])]
    for where in ({"labels": files[0]}, {"labels": files[1]}, {"label_column": "tags"}):
        found = evaluate(table, EvaluateOptions(templates=("{label}",), **where))
        assert found.zero_shot is not None
        assert (found.rows, found.absent, found.zero_shot.several) == (237, 0, 237)
        assert found.zero_shot.top1 > 0.95, "the last label of each alone would be the nearest in half of them"
        assert len(found.zero_shot.labels) == 16
    fewer = evaluate(table, EvaluateOptions(label_column="tags", max_rows=50))
    assert fewer.zero_shot is not None
    assert (fewer.rows, fewer.zero_shot.several) == (50, 50), "a picture is sampled with all of its labels"


def test_captions_of_the_table_and_of_a_file(uri: str, engine: WordEngine, tmp_path: Path) -> None:
    table = open_table(uri, engine=engine)
    found = evaluate(table, EvaluateOptions())
    assert found.retrieval is not None
    # Four pictures share each colour and thing, so the right one is among the first ten, and not always first.
    assert found.retrieval.text_to_image.recall["10"] > 0.95
    rows = table.snapshot.dataset.to_table(columns=["id", "tags"]).to_pylist()
    captions = write_csv(tmp_path / "c.csv", ("id", "caption"), [(r["id"], " ".join(r["tags"])) for r in rows])
    from_file = evaluate(table, EvaluateOptions(captions=captions, max_rows=100))
    assert from_file.retrieval is not None
    assert from_file.rows + from_file.absent == 100


def test_the_plot_is_svg_and_labels_are_only_text(uri: str, engine: WordEngine, tmp_path: Path) -> None:
    table = open_table(uri, engine=engine)
    rows = [(f"row-{n:06d}", "<script>&" if n % 2 else "red") for n in range(40)]
    found = evaluate(table, EvaluateOptions(labels=write_csv(tmp_path / "l.csv", ("id", "label"), rows)))
    root = ET.fromstring(plot(found))
    assert root.tag.endswith("svg")
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    ET.fromstring(plot(evaluate(table, EvaluateOptions())))


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "columns a, b"), ("", "none"), ("id,label\nnobody,red\n", "none of"), ("id,label\n\xff", "UTF-8")],
)
def test_files_that_cannot_be_used(uri: str, engine: WordEngine, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words):
        evaluate(open_table(uri, engine=engine), EvaluateOptions(labels=str(tmp_path / "l.csv")))


class NamedVectors(WordEngine):
    """CLIP's text tower, as far as its vectors were stored: a class name has the vector computed from `a {name}`."""

    def __init__(self, names: list[str], vectors_LD: np.ndarray) -> None:
        super().__init__(512)
        self.known = dict(zip(names, normalised(vectors_LD.astype(np.float32)), strict=True))

    def encode_texts(self, texts):  # type: ignore[no-untyped-def]
        return np.stack([self.known[text] for text in texts])


SEEN = {  # what a person sees in the picture, among LVIS's names
    "123_456": {"cat", "kitten"},
    "456_123": {"cat", "kitten"},
    "321_421": {"coconut"},  # palm trees against the sky
    "389_535": {"street_sign", "signboard", "billboard"},  # a motel's sign
    "524_316": {"clock_tower", "cornice"},  # facades around a church
}


def test_real_clip_vectors_find_what_a_person_would_say(real_data: Path, tmp_path: Path) -> None:
    """Pictures of clip-retrieval's tests and 1,203 LVIS names, all by OpenAI's ViT-B/32: in a table of names the
    pictures find their names, and in a table of pictures the names their pictures."""
    stored = np.load(real_data / "clip_retrieval/vitb32_openai_embeddings.npz", allow_pickle=False)
    categories = json.loads((real_data / "clip_text_vitb32/lvis_v1_train_cat_info.json").read_text())
    names = [c["name"] for c in categories]
    vectors = np.load(real_data / "clip_text_vitb32/lvis_v1_clip_a+cname.npy", allow_pickle=False)
    engine = NamedVectors(names, vectors)
    labels = real_table(tmp_path / "labels.lance", names, vectors, engine)
    pictures = real_table(tmp_path / "pictures.lance", stored["names"].tolist(), stored["emb"], engine)
    for name, vector in zip(stored["names"].tolist(), stored["emb"], strict=True):
        if name in SEEN:
            assert SEEN[name] & set(labels.search(vector=vector, k=10)["id"].to_pylist()), name
    assert set(pictures.search("cat", k=2)["id"].to_pylist()) == {"123_456", "456_123"}
    for words, picture in {"kitten": "456_123", "coconut": "321_421", "billboard": "389_535"}.items():
        assert pictures.search(words, k=1)["id"][0].as_py() == picture
    assert pictures.search("clock_tower", k=1)["id"][0].as_py() == "524_316"


def real_table(path: Path, ids: list[str], vectors: np.ndarray, engine: WordEngine) -> Table:
    rows = batch(TableOptions(rows=len(ids), dim=512))
    unit = normalised(vectors.astype(np.float32)).astype(np.float16)
    for name, values in (("id", ids), ("vector", list(unit))):
        place, field = rows.schema.get_field_index(name), rows.schema.field(name)
        rows = rows.set_column(place, field, pa.array(values, field.type))
    lance.write_dataset(rows, path, enable_stable_row_ids=True)
    return open_table(str(path).removesuffix(".lance"), engine=engine)
