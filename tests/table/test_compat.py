"""What a job may not write into a table that exists: each refusal in one sentence, with the way out."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from clipmill.jobs.table import compat
from clipmill.schemas.columns import ORIENTATION_FIELD, PHASH, rows_schema
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.vocabulary import Vocabulary, parse_vocabulary
from tests.committed import FINGERPRINT

PETS = parse_vocabulary("labels: [cat, dog]", name="pets", where="pets.yaml")


def schema(
    *, keep: dict[str, str] | None = None, vocabulary: Vocabulary | None = None, thumbnails: bool = False
) -> pa.Schema:
    stored = json.dumps({"name": vocabulary.name, "hash": vocabulary.hash}) if vocabulary else None
    return rows_schema(
        dim=4,
        keep=keep or {},
        fingerprint_json=FINGERPRINT.to_json(),
        vocabulary_json=stored,
        thumbnails=thumbnails,
    )


def job(*, thumbnails: bool = False, **source: Any) -> JobFile:
    return JobFile.model_validate(
        {"table": "db/t", "source": {"format": "webdataset", "uri": "x", **source}, "thumbnails": thumbnails}
    )


def test_what_fits_is_let_through() -> None:
    found = schema(keep={"license": "string", "year": "int32"}, vocabulary=PETS, thumbnails=True)
    compat.check_columns(found, job(keep={"license": "string"}, thumbnails=True))
    compat.check_columns(found, job())
    compat.check_fingerprint(found, FINGERPRINT)
    compat.check_vocabulary(found, PETS)
    compat.check_vocabulary(schema(), None)


def test_a_table_that_somebody_else_made() -> None:
    for columns in ([("id", pa.string())], [("vector", pa.list_(pa.float32(), 4))]):
        with pytest.raises(UserError, match="carries no fingerprint") as error:
            compat.check_columns(pa.schema(columns), job())
        assert "another table name" in error.value.hint


def test_a_kept_column_that_the_table_lacks() -> None:
    with pytest.raises(UserError, match=r"source\.keep names author, year"):
        compat.check_columns(schema(), job(keep={"year": "int32", "author": "string"}))


def test_a_kept_column_of_another_type() -> None:
    with pytest.raises(UserError, match=r"source\.keep\.year is string, but the table's column is int32") as error:
        compat.check_columns(schema(keep={"year": "int32"}), job(keep={"year": "string"}))
    assert "year: int32" in error.value.hint


def test_thumbnails_that_the_table_has_no_column_for() -> None:
    with pytest.raises(UserError, match="made without thumbnails"):
        compat.check_columns(schema(), job(thumbnails=True))


def test_hashes_that_the_table_has_no_column_for() -> None:
    asked = JobFile.model_validate({"table": "db/t", "source": {"format": "webdataset", "uri": "x"}, "phash": True})
    with pytest.raises(UserError, match="phash: true, but the table was made without perceptual hashes"):
        compat.check_columns(schema(), asked)
    compat.check_columns(schema().append(PHASH), asked)
    compat.check_columns(schema().append(PHASH), job())  # and goes on hashing: the table says so


def test_what_new_rows_will_lack_is_told() -> None:
    found = schema(keep={"license": "string", "year": "int32"}, thumbnails=True).append(ORIENTATION_FIELD)
    assert [said.partition(":")[0] for said in compat.left_null(found, job(keep={"year": "int32"}), None)] == [
        "the table has a column orientation, and the job has no source.orientation",
        "source.keep does not name license, which the table has",
        "the table has thumbnails, and the job has no `thumbnails",
    ]
    whole = job(keep={"license": "string", "year": "int32"}, orientation="json:exif", thumbnails=True)
    assert compat.left_null(found, whole, None) == []
    ours = schema().append(PHASH).append(pa.field("vector__b", pa.list_(pa.float16(), 8)))
    assert compat.left_null(ours, job(), None) == []
    (said,) = compat.left_null(schema(), job(), job(caption="txt").source)
    assert said.startswith("the last job read captions (txt), and this one has no source.caption")
    assert compat.left_null(schema(), job(caption="txt"), job().source) == []


def test_a_second_models_columns_are_no_kept_ones() -> None:
    found = schema().append(pa.field("vector__b32", pa.list_(pa.float16(), 8)))
    compat.check_columns(found, job())


@pytest.mark.parametrize(
    "other",
    [
        replace(FINGERPRINT, weights_sha256="1" * 64),
        replace(FINGERPRINT, dim=8),
        replace(FINGERPRINT, tokenizer="other"),
        replace(FINGERPRINT, preprocess=replace(FINGERPRINT.preprocess, interpolation="bilinear")),
        replace(FINGERPRINT, exif="ignored"),
        replace(FINGERPRINT, normalized=False),
    ],
)
def test_vectors_of_another_model_or_other_pixels(other: Any) -> None:
    with pytest.raises(UserError, match="the table holds vectors of stub:4") as error:
        compat.check_fingerprint(schema(), other)
    assert "another table name" in error.value.hint
    assert "`clipmill reembed TABLE --model NAME`" in error.value.hint


def test_another_precision_or_path_is_the_same_model() -> None:
    compat.check_fingerprint(schema(), replace(FINGERPRINT, provenance={"precision": "bf16"}, pretrained="/models/x"))


@pytest.mark.parametrize(
    ("stored", "mine", "said"),
    [
        (PETS, parse_vocabulary("labels: [cat, fox]", name="forest", where="f"), "'pets', the job names .*'forest'"),
        (PETS, parse_vocabulary("labels: [cat, fox]", name="pets", where="p"), "with other labels or templates"),
        (PETS, None, "the job names none"),
        (None, PETS, "made with no vocabulary"),
    ],
)
def test_tags_of_another_vocabulary(stored: Vocabulary | None, mine: Vocabulary | None, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        compat.check_vocabulary(schema(vocabulary=stored), mine)
    assert "another table name" in error.value.hint
    assert ("leave `tags.vocabulary` out" in error.value.hint) == (stored is None)


def test_the_vocabularys_name_alone_is_no_difference() -> None:
    compat.check_vocabulary(schema(vocabulary=PETS), parse_vocabulary("labels: [cat, dog]", name="animals", where="a"))


def test_a_column_that_allows_no_null_is_named_before_any_work() -> None:
    """Somebody added it; every new unit would have failed without a word about which."""
    found = schema().append(pa.field("price", pa.float64(), nullable=False))
    with pytest.raises(UserError, match="column price of the table allows no null") as caught:
        compat.check_columns(found, job())
    assert "'path': 'price'" in caught.value.hint
    compat.check_columns(schema().append(pa.field("price", pa.float64())), job())
