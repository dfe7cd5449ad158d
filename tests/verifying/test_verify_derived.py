"""Scores of heads, tags beside and a set's own tags: damage that only the stored vectors tell, and what rows lack."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.migrating.retag import RetagOptions, retag
from clipmill.jobs.migrating.score import read_head, score
from clipmill.jobs.table import sets
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import VOCABULARY_KEY, set_fields
from clipmill.schemas.job.config import Limits, Storage, Tags
from clipmill.workers.stub import StubEngine
from clipmill.workers.tag import Tagger, load_vocabulary
from tests.build import picture
from tests.verifying.test_verify_rows import ROWS, Made, make

SET = "stub_8"


def add_set(made: Made, vocabulary: str) -> None:
    """A whole set of stub:8, with tags of its own."""
    engine = StubEngine.from_name("stub:8")
    tagger = Tagger.build(load_vocabulary(vocabulary), engine, Tags(top_k=2, min_score=0.05))
    fields = set_fields(SET, dim=8, fingerprint_json=engine.fingerprint.to_json(), vocabulary_json=tagger.metadata_json)
    sets.add_set(made.tables, SET, fields, engine.fingerprint)
    vectors_ND = engine.encode_images(
        np.stack([engine.prepare(picture(n), Limits()).pixels_CHW for n in range(ROWS)])
    ).astype(np.float16)
    tags, scores = tagger.tag(vectors_ND.astype(np.float32))
    for n in range(ROWS - 1):  # the last row has none of it yet
        values = {"vector": vectors_ND[n], "tags": tags[n].as_py(), "tag_scores": scores[n].as_py()}
        made.change(n, **{f"{name}__{SET}": value for name, value in values.items()})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A head in use, a head of the set, a vocabulary beside and a set: all sound."""
    folder = tmp_path_factory.mktemp("derived")
    made = make(folder)
    rng = np.random.default_rng(0)
    for dim in (8, 16):
        np.savez(folder / f"head{dim}.npz", weight=rng.standard_normal((1, dim)).astype(np.float32))
    score(made.uri, read_head("aesthetic", str(folder / "head16.npz"), Storage()))
    (folder / "side.yaml").write_text("labels: [sun, moon, star]\n")
    retag(made.uri, RetagOptions(vocabulary=str(folder / "side.yaml"), beside="side", min_score=0.05), Storage())
    add_set(made, str(folder / "words.yaml"))
    return made


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    shutil.copytree(template.tables.database, tmp_path / "db")
    return Made(template.tar, Tables.at(f"{tmp_path}/db/images", Storage()))


def test_sound_columns_have_no_problems_and_what_rows_lack_is_no_damage(made: Made) -> None:
    report = made.check(2)
    assert (report.problems, report.not_checked, report.missing) == ([], [], [])
    made.change(3, aesthetic=None, tags__side=None, tag_scores__side=None)
    report = made.check()
    assert report.problems == []
    assert report.missing == [
        "1 row has a vector and nothing in aesthetic yet",
        "1 row has a vector and nothing in tags__side yet",
    ]


def head_score_moved(made: Made) -> None:
    made.change(3, aesthetic=made.rows[3]["aesthetic"] + 0.01)


def head_score_not_a_number(made: Made) -> None:
    made.change(3, aesthetic=float("nan"))


def head_score_of_another(made: Made) -> None:
    made.change(3, aesthetic=made.rows[4]["aesthetic"])


def side_label_of_another(made: Made) -> None:
    label = next(name for name in ("sun", "moon", "star") if name != made.rows[3]["tags__side"][0])
    made.change(3, tags__side=[label], tag_scores__side=[0.97])


def set_label_of_another(made: Made) -> None:
    labels = [name for name in ("cat", "dog", "cow", "hen") if name not in made.rows[3][f"tags__{SET}"]]
    made.change(3, **{f"tags__{SET}": [labels[0]], f"tag_scores__{SET}": [0.97]})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (head_score_moved, "3.jpg: aesthetic is"),
        (head_score_not_a_number, "3.jpg: aesthetic is nan"),
        (head_score_of_another, "3.jpg: aesthetic is"),
        (side_label_of_another, "3.jpg, tags__side: its vector is"),
        (set_label_of_another, f"3.jpg, tags__{SET}: its vector is"),
    ],
)
def test_what_only_the_vectors_tell_is_seen_by_a_sample(made: Made, damage: Callable[[Made], None], said: str) -> None:
    damage(made)
    assert made.check().problems == []
    problems = made.check(1).problems
    assert problems
    assert all(said in problem for problem in problems), problems


@pytest.mark.parametrize("column", ["tags__side", f"tags__{SET}"])
def test_tags_beside_are_of_their_vocabulary_and_in_range(made: Made, column: str) -> None:
    scores = column.replace("tags", "tag_scores")
    made.change(3, **{column: ["unicorn"], scores: [0.9]})
    made.change(4, **{scores: [7.5] * len(made.rows[4][column])})
    made.change(5, **{scores: None})
    problems = sorted(made.check().problems)
    assert len(problems) == 3
    assert f"3.jpg, {column}: the tag 'unicorn' is no label" in problems[0]
    assert f"4.jpg, {column}: the tag score 7.5 is not between" in problems[1]
    assert f"5.jpg, {column}: tags or tag_scores is null" in problems[2]


def test_what_a_column_was_made_with_and_is_not_there_any_more_is_said(tmp_path: Path) -> None:
    made = make(tmp_path)
    np.savez(tmp_path / "head.npz", weight=np.ones((1, 16), np.float32))
    score(made.uri, read_head("aesthetic", str(tmp_path / "head.npz"), Storage()))
    (tmp_path / "side.yaml").write_text("labels: [sun, moon, star]\n")
    options = RetagOptions(vocabulary=str(tmp_path / "side.yaml"), beside="side", min_score=0.05)
    retag(made.uri, options, Storage())
    retag(made.uri, replace(options, beside="old"), Storage())
    text = made.tables.open().schema.field("tags__old").metadata[VOCABULARY_KEY].decode()
    another = text.replace('"weights_sha256": "', '"weights_sha256": "00')
    made.tables.open().update_field_metadata({"tags__old": {VOCABULARY_KEY.decode(): another}})
    (tmp_path / "head.npz").unlink()
    (tmp_path / "side.yaml").write_text("labels: [sun, moon]\n")
    report = made.check(1)
    assert report.problems == []
    told = {line.partition(" ")[0].rstrip(":"): line for line in report.not_checked}
    assert set(told) == {"aesthetic", "tags__side", "tags__old"}
    assert "is not here" in told["aesthetic"]
    assert "was changed since" in told["tags__side"]
    assert "nothing says that they are of the vectors in use" in told["tags__old"]
