"""Tags of another vocabulary from stored vectors: what embed would give, all or nothing, whatever comes between."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.retag import Retagged, RetagOptions, retag
from clipmill.jobs.table import compat
from clipmill.jobs.table.label_vectors import load_label_vectors
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import vocabulary_of
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.columns import VOCABULARY_KEY
from clipmill.schemas.errors import LeaseHeld, UserError
from clipmill.schemas.job.config import Storage, Tags
from clipmill.workers.tag import Tagger, embed_labels, load_vocabulary
from tests.committed import Killed, killer, take_lease
from tests.tables import COLOURS, THINGS, TableOptions, WordEngine, append, make_table

THINGS_FILE = "name: things\nlabels: [" + ", ".join(THINGS) + "]\ntemplates: ['{label}']\n"
LABELS_FILE = "facets:\n  colour: [" + ", ".join(COLOURS) + "]\n  thing: [" + ", ".join(THINGS) + "]\n"


class Place:
    """A table of three fragments, one with deleted rows, and two vocabularies with their vectors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = make_table(folder, TableOptions(rows=120))
        append(self.uri, TableOptions(rows=80, start=120))
        append(self.uri, TableOptions(rows=50, start=200))
        self.tables = Tables.at(self.uri)
        self.tables.ensure_side_tables()
        self.tables.open().delete("id IN ('row-000119', 'row-000121', 'row-000130', 'row-000249')")
        self.things = self.vocabulary("things", THINGS_FILE)
        self.labels = self.vocabulary("labels", LABELS_FILE)

    def vocabulary(self, name: str, text: str) -> RetagOptions:
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        vectors_LD = embed_labels(load_vocabulary(str(path)), WordEngine())  # type: ignore[arg-type]
        np.save(self.folder / f"{name}.npy", vectors_LD * 7)  # of no unit length
        return RetagOptions(vocabulary=str(path), label_vectors=str(self.folder / f"{name}.npy"))

    def retag(self, options: RetagOptions, **more: object) -> Retagged:
        return retag(self.uri, options, Storage(), **more)  # type: ignore[arg-type]

    def stored(self) -> dict[str, list[str]]:
        rows = self.tables.open().to_table(columns=["id", "tags"])
        return dict(zip(rows["id"].to_pylist(), rows["tags"].to_pylist(), strict=True))

    def expected(self, options: RetagOptions) -> dict[str, list[str]]:
        """By embed's own tagger, with labels by the text tower."""
        engine = WordEngine()
        tagger = Tagger.build(load_vocabulary(options.vocabulary), engine, Tags(top_k=2, min_score=0.1))  # type: ignore[arg-type]
        rows = self.tables.open().to_table(columns=["id", "vector"])
        empty = [np.nan] * engine.dim
        vectors_ND = np.asarray([v or empty for v in rows["vector"].to_pylist()], np.float32)
        return dict(zip(rows["id"].to_pylist(), tagger.tag(vectors_ND)[0].to_pylist(), strict=True))

    def is_of(self, options: RetagOptions) -> bool:
        schema = self.tables.open().schema
        stored = compat.stored_vocabulary(schema)
        return stored is not None and stored["hash"] == load_vocabulary(options.vocabulary).hash


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_tags_are_what_embed_gives_and_the_table_knows_whose_they_are(place: Place) -> None:
    before = place.tables.open().schema.names
    place.tables.open().tags.create("live", 1)
    done = place.retag(place.things)
    assert "readers see the published version 1" in done.note
    assert f"`clipmill publish {place.uri}` publishes the newest" in done.note
    assert (done.rows, done.written, done.labels) == (246, 246, len(THINGS))
    assert place.stored() == place.expected(place.things)
    assert sum(map(len, place.stored().values())) > 200
    rows = place.tables.open()
    assert sorted(rows.schema.names) == sorted(before)
    assert done.without_tags == sum(not tags for tags in place.stored().values()) > 0
    assert done.with_tags + done.without_tags == done.rows
    vocabulary = load_vocabulary(place.things.vocabulary)
    compat.check_vocabulary(rows.schema, vocabulary)
    assert vocabulary_of(place.tables, rows.schema) == vocabulary  # no job names it: the column does
    with pytest.raises(UserError, match="things") as refused:
        compat.check_vocabulary(rows.schema, load_vocabulary(place.labels.vocabulary))
    assert "clipmill retag" in refused.value.hint


def test_verify_has_nothing_against_new_tags(place: Place) -> None:
    def of_tags() -> list[str]:
        return [str(problem) for problem in verify(place.uri, Storage()).problems if "tag" in str(problem)]

    place.retag(place.labels)
    assert of_tags() == []
    place.tables.open().update({"tags": "['nonsense']", "tag_scores": "[0.9]"}, where="id = 'row-000001'")
    assert of_tags()


def test_again_is_nothing_to_do_other_thresholds_are(place: Place) -> None:
    place.retag(place.things)
    version = place.tables.open().version
    assert place.retag(place.things).written == 0
    assert place.tables.open().version <= version + 1  # the fence
    top = RetagOptions(vocabulary=place.things.vocabulary, label_vectors=place.things.label_vectors, top_k=1)
    assert place.retag(top).written == 246
    assert max(map(len, place.stored().values())) == 1


@pytest.mark.parametrize("at", range(7))
def test_killed_at_each_commit_the_next_call_goes_on(place: Place, at: int) -> None:
    place.tables.open().create_scalar_index("tags", "LABEL_LIST", name="tags_idx")
    old, steps = place.stored(), []

    def kill(name: str) -> None:
        steps.append(name)
        if len(steps) == at + 1:
            raise Killed

    try:
        place.retag(place.things, step=kill)
        pytest.fail(f"there is no step {at} in {steps}")
    except Killed:
        switched = at > 4
        assert place.is_of(place.things) == switched, steps
        assert place.stored() == (place.expected(place.things) if switched else old)
    # Rows come between, as a run of the old vocabulary brings them (or, after the switch, of the new one).
    if not place.is_of(place.things):
        append(place.uri, TableOptions(rows=10, start=300))
    done = place.retag(place.things)
    assert done.written < done.rows or at < 2
    assert place.stored() == place.expected(place.things)
    rows = place.tables.open()
    assert not [name for name in rows.schema.names if "__" in name]
    assert [index.field_names for index in rows.describe_indices()] == [["tags"]]
    some = next(tags for tags in place.stored().values() if tags)[0]
    assert rows.count_rows(f"array_has_any(tags, ['{some}'])") == sum(some in t for t in place.stored().values())


def test_killed_for_one_vocabulary_begun_for_another(place: Place) -> None:
    with pytest.raises(Killed):
        place.retag(place.things, step=killer("switch"))
    place.tables.open().optimize.compact_files()  # the columns are in one wide file now
    assert place.retag(place.labels).written == 246
    assert place.stored() == place.expected(place.labels)


def test_a_reader_sees_the_old_tags_or_the_new_with_their_vocabulary(place: Place) -> None:
    old = place.stored()
    place.retag(place.labels)
    sets = {"things": place.expected(place.things), "labels": place.stored()}
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            rows = place.tables.open()
            name = json.loads(rows.schema.field("tags").metadata[VOCABULARY_KEY])["name"]
            table = rows.to_table(columns=["id", "tags"])
            seen.add(name)
            if dict(zip(table["id"].to_pylist(), table["tags"].to_pylist(), strict=True)) != sets[name]:
                wrong.append(name)

    reader = threading.Thread(target=read)
    reader.start()
    for options in (place.things, place.labels, place.things):
        place.retag(options)
    stop.set()
    reader.join()
    assert (wrong, seen) == ([], {"things", "labels"})
    assert old != sets["things"]


def test_beside_a_run_or_another_fill_it_waits_for_its_turn(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    lease = take_lease(place.tables, "a", ttl_s=3)
    lease.keep()
    command = ["retag", place.uri, "--vocabulary", place.things.vocabulary]
    command += ["--label-vectors", str(place.things.label_vectors)]
    assert run(command) == 5
    lease.release()
    fill = Lease(place.tables, "b", "reembed", ttl_s=3, key=FILL_KEY)
    fill.take()
    fill.keep()
    with pytest.raises(LeaseHeld):
        place.retag(place.things)
    fill.release()
    capsys.readouterr()
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 246


def test_the_terminal_hears_nothing_of_lances_own_worries(place: Place) -> None:
    options = ["--vocabulary", place.things.vocabulary, "--label-vectors", str(place.things.label_vectors)]
    command = [sys.executable, "-m", "clipmill.jobs.cli.main", "retag", place.uri, *options]
    there = {name: value for name, value in os.environ.items() if name != "LANCE_LOG"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=there)
    assert "switched to the new tags" in done.stderr
    assert "WARN" not in done.stderr


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (np.ones((3, 64), np.float32), "3 vectors of 64 numbers"),
        (np.ones((10, 32), np.float32), "10 vectors of 32 numbers"),
        (np.ones(64, np.float32), "one matrix"),
        (np.eye(10, 64, k=-1, dtype=np.float32), "row 0"),
        (np.full((10, 64), np.inf, np.float16), "row 0"),
        (np.array([{}]), "no .npy file"),
    ],
)
def test_label_vectors_that_do_not_fit_are_told(place: Place, vectors: np.ndarray, told: str) -> None:
    np.save(place.folder / "wrong.npy", vectors)
    version = place.tables.open().version
    with pytest.raises(UserError, match=told):
        place.retag(RetagOptions(vocabulary=place.things.vocabulary, label_vectors=str(place.folder / "wrong.npy")))
    assert place.tables.open().version == version


def test_vectors_of_clip_for_the_labels_of_coco_are_taken(real_data: Path) -> None:
    file = real_data / "clip_text_vitb32" / "coco_clip_a+cname.npy"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    vectors_LD = load_label_vectors(str(file), load_vocabulary("coco"), 512)
    assert np.allclose(np.linalg.norm(vectors_LD, axis=1), 1, atol=1e-5)
    cosines_LL = vectors_LD @ vectors_LD.T
    assert (cosines_LL.argmax(axis=1) == np.arange(80)).all()
    assert len(np.unique(cosines_LL.round(3))) > 100  # 80 different words


def test_a_fragment_of_many_batches_keeps_its_rows_in_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.jobs.committing.derived.BATCH_ROWS", 7)
    place.retag(place.things)
    assert place.stored() == place.expected(place.things)
