"""Several vocabularies side by side, thresholds by labels, and what status says of vocabularies that differ."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.migrating.calibrate import calibrate
from clipmill.jobs.migrating.drop import drop
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table import compat, sets
from clipmill.jobs.verifying.status import status
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage, Tags
from clipmill.workers.tag import Tagger, embed_labels, load_vocabulary
from tests.migrating.test_retag import THINGS_FILE, Place
from tests.tables import THINGS, TableOptions, WordEngine, append, fingerprint


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def column(place: Place, name: str) -> dict[str, list[str] | None]:
    rows = place.tables.open().to_table(columns=["id", name])
    return dict(zip(rows["id"].to_pylist(), rows[name].to_pylist(), strict=True))


def test_two_vocabularies_stand_side_by_side(place: Place) -> None:
    place.retag(place.labels)
    in_use = place.stored()
    done = place.retag(replace(place.things, beside="things"))
    assert (done.column, done.written, place.stored()) == ("tags__things", 246, in_use)
    beside = column(place, "tags__things")
    assert beside == place.expected(place.things)
    table = open_table(place.uri)
    label = max(THINGS, key=lambda one: sum(one in (tags or []) for tags in beside.values()))
    expected = {row for row, tags in beside.items() if tags and label in tags}
    for question in (
        {"all_tags": label, "tags_column": "tags__things"},
        {"where": f"array_has_any(tags__things, ['{label}'])"},
    ):
        found = table.search(k=300, **question)  # type: ignore[arg-type]
        assert set(found["id"].to_pylist()) == expected
        assert "tags__things" in found.column_names
    without = table.search(k=300, no_tags=label, tags_column="tags__things")
    hidden = {row for row, vector in column(place, "vector").items() if vector is None}
    assert set(without["id"].to_pylist()) == set(beside) - expected - hidden
    for name in ("caption", "tags__absent", "tags) OR (true"):
        with pytest.raises(UserError, match="no column of tags"):
            table.search(k=3, all_tags=label, tags_column=name)
    report = build_index(place.uri, IndexOptions(measure_recall=False), Storage(), tell=lambda _: None)
    assert report.scalar["tags__things"] == "built"
    assert run(["tags", place.uri, "--column", "tags__things"]) == 0

    # Rows that come later have none of it until it is run again; the tags in use are not touched.
    append(place.uri, TableOptions(rows=10, start=400))
    assert {v["column"]: v["left"] for v in status(place.uri, Storage()).vocabularies} == {
        "tags": 0,
        "tags__things": 10,
    }
    again = place.retag(replace(place.things, beside="things"))
    assert (again.written, column(place, "tags__things") == place.expected(place.things)) == (10, True)
    assert drop(place.uri, "things", Storage(), say=lambda _: None).columns == ["tags__things", "tag_scores__things"]
    assert "tags__things" not in place.tables.open().schema.names


def test_names_that_a_vocabulary_cannot_have(place: Place) -> None:
    for slug in (sets.slug_in_use(place.tables.open().schema), "retag", "Things", "a__b"):
        with pytest.raises(UserError, match=slug):
            place.retag(replace(place.things, beside=slug))
    assert not [name for name in place.tables.open().schema.names if "__" in name]


def test_status_names_vocabularies_that_changed(place: Place) -> None:
    place.retag(place.labels)
    place.retag(replace(place.things, beside="things"))
    assert [v["note"] for v in status(place.uri, Storage()).vocabularies] == ["", ""]
    Path(place.things.vocabulary).write_text(THINGS_FILE.replace("'{label}'", "'a {label}'"))
    notes = {v["column"]: v["note"] for v in status(place.uri, Storage()).vocabularies}
    assert notes["tags"] == ""
    assert "things.yaml has other labels or templates now" in notes["tags__things"]
    assert "--as things" in notes["tags__things"]
    job = {"tags": {"vocabulary": place.things.vocabulary}}
    import json

    place.tables.log_run("r", "embed", "started", json.dumps(job), table_id=place.tables.id())
    notes = {v["column"]: v["note"] for v in status(place.uri, Storage()).vocabularies}
    assert "the last job names the vocabulary" in notes["tags"]


def labelled(place: Place, folder: Path, strict: str = "cat") -> str:
    """Of each row its thing as the table was made, but for one label that people see in half of its pictures only."""
    rows = place.tables.open().to_table(columns=["id", "caption", "vector"]).to_pylist()
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "label"])
        for at, row in enumerate(rows):
            found = [thing for thing in THINGS if thing in (row["caption"] or "").split()]
            if found and not (found[0] == strict and at % 2):
                out.writerow([row["id"], found[0]])
    return str(path)


def test_calibrated_thresholds_are_the_best_and_stay_with_the_vocabulary(place: Place, tmp_path: Path) -> None:
    file = labelled(place, tmp_path, strict=THINGS[0])
    done = place.retag(replace(place.things, calibrate=file))
    found = done.calibration
    assert found is not None
    assert set(found.thresholds) == set(THINGS)
    assert found.f1 >= found.f1_before
    assert found.f1 > 0.5
    # The table, opened anew, has them; the tags follow them, by embed's own tagger.
    schema = place.tables.open().schema
    vocabulary = compat.with_thresholds(load_vocabulary(place.things.vocabulary), schema)
    assert vocabulary.thresholds == found.thresholds
    assert status(place.uri, Storage()).vocabularies[0]["thresholds"] == found.thresholds
    tags = Tags(top_k=2, min_score=0.1)
    vectors_LD = embed_labels(vocabulary, WordEngine())  # type: ignore[arg-type]
    tagger = Tagger.from_vectors(vocabulary, vectors_LD, fingerprint(WordEngine().dim), tags)
    rows = place.tables.open().to_table(columns=["id", "vector", "tags", "tag_scores"])
    vectors_ND = np.asarray([v or [np.nan] * WordEngine().dim for v in rows["vector"].to_pylist()], np.float32)
    assert rows["tags"].to_pylist() == tagger.tag(vectors_ND)[0].to_pylist()
    for names, scores in zip(rows["tags"].to_pylist(), rows["tag_scores"].to_pylist(), strict=True):
        assert all(score >= found.thresholds[name] - 1e-6 for name, score in zip(names, scores, strict=True))
    assert [p for p in verify(place.uri, Storage()).problems if "tag" in p] == []
    # Again without the file they stay, with --min-score they leave; another vocabulary has none.
    assert place.retag(place.things).written == 0
    assert place.retag(replace(place.things, min_score=0.1)).written == 246
    assert "thresholds" not in (compat.stored_vocabulary(place.tables.open().schema) or {})


def test_a_threshold_tells_scores_apart_however_small(place: Place, tmp_path: Path) -> None:
    """A model of a sigmoid loss gives most labels a millionth and less."""
    vocabulary = load_vocabulary(place.things.vocabulary)
    vectors_LD = embed_labels(vocabulary, WordEngine())  # type: ignore[arg-type]
    tagger = Tagger(vocabulary, vectors_LD, Tags(top_k=9, min_score=0.1), logit_scale=10.0, logit_bias=-30.0)
    found = calibrate(place.tables, tagger, labelled(place, tmp_path), lambda _: None)
    assert found.f1 > 0.5 > found.f1_before
    rows = place.tables.open().to_table(columns=["vector", "caption"], filter="vector IS NOT NULL").to_pylist()
    given = tagger.with_thresholds(found.thresholds).tag(np.array([row["vector"] for row in rows], np.float32))[0]
    least = min(found.thresholds, key=lambda name: found.thresholds[name])
    assert 0 < found.thresholds[least] < 1e-7
    assert 0 < sum(least in tags for tags in given.to_pylist()) < len(rows) / 2


def test_labels_that_cannot_calibrate_are_told_and_nothing_changes(place: Place, tmp_path: Path) -> None:
    before = place.tables.open().version
    for text, word in (
        ("id,label\nrow-000001,unicorn\n", "'unicorn' is no label"),
        (f"id,label\nrow-000001,{THINGS[0]}\n", "no label for 5 pictures"),
        (f"id,name\nrow-000001,{THINGS[0]}\n", "has the columns id, name"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(UserError, match=word):
            place.retag(replace(place.things, calibrate=str(tmp_path / "bad.csv")))
    assert place.tables.open().version == before
