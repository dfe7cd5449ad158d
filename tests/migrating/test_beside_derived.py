"""Scores of a set's heads and tags of vocabularies beside, for rows that came since: by what the columns name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.migrating.beside_derived import Followed, fill_columns
from clipmill.jobs.querying import encoder
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import status
from clipmill.schemas.columns import VOCABULARY_KEY
from clipmill.workers.engine import Engine
from tests.build import tar
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_retag import THINGS_FILE, Place
from tests.migrating.test_set_heads import check, fill, head
from tests.migrating.test_vocabularies import column
from tests.tables import TableOptions, WordEngine, append, fingerprint

HEAD, SIDE = f"aesthetic__{SLUG}", "tags__side"
SAID: list[str] = []


def follow(tables: Tables) -> tuple[Followed, ...]:
    return fill_columns(tables, "nightly", SAID.append)


def left_of(world: World) -> int:
    (one,) = status(world.uri, STORAGE).sets
    return int(one["heads"]["aesthetic"])


def test_rows_that_came_get_the_scores_of_a_sets_head(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(6))))
    world.fill()
    one = head(tmp_path, 16)
    assert fill(world, one) == 6
    version = world.tables.open().version
    assert (follow(world.tables), world.tables.open().version) == ((), version)

    world.embed("b", tar(members(range(6, 9))))
    assert follow(world.tables) == ()  # those have no vector of the set yet
    world.fill(run="second")
    assert left_of(world) == 3
    holder = Lease(world.tables, "other", "reembed", key=FILL_KEY, ttl_s=0.6)
    holder.take(poll_s=0.05)
    holder.keep()
    (busy,) = follow(world.tables)
    assert (busy.column, busy.new, busy.left) == (HEAD, 0, 3)
    assert "a fill is under way" in busy.note
    holder.release()
    assert follow(world.tables) == (Followed(column=HEAD, new=3),)
    check(world, one, f"vector__{SLUG}", HEAD)
    assert left_of(world) == 0


@pytest.mark.parametrize("what", ["gone", "other", "elsewhere"])
def test_a_head_whose_file_is_not_what_it_was_is_told_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(3))))
    world.fill()
    one = head(tmp_path, 16)
    fill(world, one)
    world.embed("b", tar(members(range(3, 5))))
    world.fill(run="second")
    tables, file = world.tables, Path(one.file)
    if what == "gone":
        file.unlink()
    elif what == "other":
        np.savez(file, weight=np.ones((1, 16), np.float32))
    else:

        class Elsewhere(Tables):
            """The same tables under the name of a store: nothing of this disk is opened for them."""

            def open(self, *args: object, **options: object) -> object:
                return world.tables.open(*args, **options)  # type: ignore[arg-type]

        tables = Elsewhere(database="s3://b/db", name="images")
    version = world.tables.open().version
    (told,) = follow(tables)
    assert (told.new, told.left, world.tables.open().version) == (0, 2, version)
    assert {"gone": "is not here", "other": "other numbers now", "elsewhere": "is not here"}[what] in told.note
    assert told.note in SAID[-1]


def beside(place: Place) -> None:
    place.retag(replace(place.things, beside="side"))
    append(place.uri, TableOptions(rows=10, start=300))


def test_rows_that_came_get_the_tags_of_a_vocabulary_beside(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.retag(replace(place.things, beside="side"))
    build_index(place.uri, IndexOptions(measure_recall=False), STORAGE, tell=lambda _: None)
    before, in_use = place.tables.open().schema, place.stored()
    append(place.uri, TableOptions(rows=10, start=300))
    assert {v["column"]: v["left"] for v in status(place.uri, STORAGE).vocabularies}[SIDE] == 10
    assert follow(place.tables) == (Followed(column=SIDE, new=10),)
    found = column(place, SIDE)
    assert found == place.expected(place.things)
    assert place.tables.open().schema.equals(before, check_metadata=True)
    assert {row: tags for row, tags in place.stored().items() if row in in_use} == in_use
    label = next(tags[0] for tags in found.values() if tags)
    asked = place.tables.open().count_rows(f"array_has_any({SIDE}, ['{label}'])")  # through the index
    assert asked == sum(label in (tags or []) for tags in found.values())
    assert place.retag(replace(place.things, beside="side")).written == 0


def test_by_the_text_tower_where_the_labels_came_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, asked = Place(tmp_path), []

    def engine_for(one: object) -> Engine:
        asked.append(one)
        return WordEngine()  # type: ignore[return-value]

    monkeypatch.setattr(encoder, "engine_for", engine_for)
    place.retag(replace(place.things, beside="side", label_vectors=None))
    append(place.uri, TableOptions(rows=10, start=300))
    assert follow(place.tables) == (Followed(column=SIDE, new=10),)
    assert column(place, SIDE) == place.expected(place.things)
    assert asked == [fingerprint()] * 2
    assert follow(place.tables) == ()
    assert len(asked) == 2, "a night with nothing to tag loads nothing"


def changed_labels(place: Place) -> None:
    Path(place.things.vocabulary).write_text(THINGS_FILE.replace("'{label}'", "'a {label}'"))


def changed_vectors(place: Place) -> None:
    np.save(str(place.things.label_vectors), np.eye(10, 64, dtype=np.float32))


def vectors_gone(place: Place) -> None:
    Path(str(place.things.label_vectors)).unlink()


def of_an_older_clipmill(place: Place) -> None:
    field = place.tables.open().schema.field(SIDE)
    text = field.metadata[VOCABULARY_KEY].decode().replace("weights_sha256", "weights")
    place.tables.open().update_field_metadata({SIDE: {VOCABULARY_KEY.decode(): text}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_labels, "not found here, or was changed since"),
        (changed_vectors, "are others in"),
        (vectors_gone, "came from a file that is not here"),
        (of_an_older_clipmill, "a set was promoted since, or an older clipmill made them"),
    ],
)
def test_a_vocabulary_that_is_not_what_it_was_is_told(
    tmp_path: Path, change: Callable[[Place], None], said: str
) -> None:
    place = Place(tmp_path)
    beside(place)
    change(place)
    version = place.tables.open().version
    (told,) = follow(place.tables)
    assert (told.column, told.new, told.left) == (SIDE, 0, 10)
    assert said in told.note
    assert place.tables.open().version == version


def test_tags_beside_are_of_one_model_after_a_promotion(tmp_path: Path) -> None:
    """The vectors in use are another model's now: such tags are told, not mixed, and `retag --as` makes them anew."""
    place = Place(tmp_path)
    place.retag(replace(place.things, beside="side"))
    other = fingerprint(weights="another").to_json()
    place.tables.open().update_field_metadata({"vector": {"clipmill.fingerprint": other}})
    append(place.uri, TableOptions(rows=10, start=300))
    (told,) = follow(place.tables)
    assert (told.new, told.left) == (0, 10)
    assert "a set was promoted since" in told.note
    assert place.retag(replace(place.things, beside="side")).written == 256
    assert follow(place.tables) == ()
