"""Killed while what follows from stored vectors is computed: a changed head, a head of a set, a vocabulary beside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.committing import head_columns
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.promote import dry_run, promote
from clipmill.jobs.migrating.score import score
from clipmill.jobs.migrating.set_heads import fill_heads
from clipmill.jobs.table import compat, heads
from clipmill.schemas.columns import HEAD_KEY
from clipmill.schemas.job.heads import Head
from clipmill.workers.tag import load_vocabulary
from tests.build import tar
from tests.committed import Killed, take_lease
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_kill import HOW, LOOSE, kill
from tests.migrating.test_retag import Place
from tests.migrating.test_set_heads import head
from tests.migrating.test_vocabularies import column
from tests.tables import TableOptions, append

SIDE = "tags__side"


def killer(at: int, heard: list[str]) -> Callable[[str], None]:
    def step(name: str) -> None:
        heard.append(name)
        if len(heard) == at + 1:
            raise Killed

    return step


def refresh(place: Place, one: Head, run: str, step: Callable[[str], None] = lambda _: None) -> int:
    """As the start of a run or an idle night does. A killed holder's lease runs out; here it is given back."""
    lease = take_lease(place.tables, run)
    try:
        return head_columns.refresh(place.tables, lease, [one], lambda _: None, step).get("aesthetic", 0)
    finally:
        lease.release()


def scores_are_of(place: Place, one: Head) -> bool:
    """All rows with a vector have this head's scores, and the column says so."""
    rows = place.tables.open()
    assert heads.told(rows.schema)["aesthetic"]["hash"] == one.hash
    found = rows.to_table(columns=["vector", "aesthetic"]).to_pylist()
    weight = one.layers[0].weight_OI[0].astype(np.float64)
    for row in found:
        if row["vector"] is None:
            assert row["aesthetic"] is None
            continue
        stored = np.asarray(row["vector"], np.float64)
        if row["aesthetic"] != pytest.approx(stored @ weight / np.linalg.norm(stored), abs=1e-4):
            return False
    return len(found) > 200


@pytest.mark.parametrize("at", range(7))
def test_a_head_that_is_recomputed_is_killed_at_each_commit(tmp_path: Path, at: int) -> None:
    place = Place(tmp_path)
    old, new = head(tmp_path, 64, 1), head(tmp_path, 64, 2)
    refresh(place, old, "first")
    place.tables.open().create_scalar_index("aesthetic", "BTREE", name="aesthetic_idx")
    heard: list[str] = []
    with pytest.raises(Killed):
        refresh(place, new, "killed", killer(at, heard))
    kinds = ["begin", *[f"fill aesthetic__retag {n}" for n in range(3)], "switch", "index", "drop aesthetic__before"]
    assert heard == kinds[: at + 1]
    switched = at > 4
    assert scores_are_of(place, new if switched else old)
    append(place.uri, TableOptions(rows=10, start=300))  # a run brings rows
    filled = max(0, min(at - 1, 3))  # fragments whose scores were committed
    left = [one.count_rows("vector IS NOT NULL") for one in place.tables.open().get_fragments()[filled:]]
    assert refresh(place, new, "again") == sum(left), "what was committed is not done again"
    assert scores_are_of(place, new)
    rows = place.tables.open()
    assert not [name for name in rows.schema.names if "__" in name]
    assert [index.field_names for index in rows.describe_indices()] == [["aesthetic"]]
    assert refresh(place, new, "idle") == 0


@pytest.mark.parametrize("at", [0, 2, 4, 5, 6])
def test_a_vocabulary_beside_that_is_changed_is_killed_at_each_commit(tmp_path: Path, at: int) -> None:
    place = Place(tmp_path)
    in_use, before = place.stored(), place.tables.open().schema.field("tags").metadata
    old, new = replace(place.labels, beside="side"), replace(place.things, beside="side")
    place.retag(old)
    was = column(place, SIDE)
    place.tables.open().create_scalar_index(SIDE, "LABEL_LIST", name="side_idx")
    heard: list[str] = []
    with pytest.raises(Killed):
        place.retag(new, step=killer(at, heard))
    kinds = ["begin", *[f"fill {SIDE}__retag {n}" for n in range(3)], "switch", "index", f"drop {SIDE}__before"]
    assert heard == kinds[: at + 1]
    switched = at > 4
    stored = compat.stored_vocabulary(place.tables.open().schema, SIDE) or {}
    assert (stored["hash"] == load_vocabulary(place.things.vocabulary).hash) is switched
    assert column(place, SIDE) == (place.expected(place.things) if switched else was)
    assert (place.stored(), place.tables.open().schema.field("tags").metadata) == (in_use, before)
    append(place.uri, TableOptions(rows=10, start=300))
    done = place.retag(new)
    assert done.written < done.rows or at < 2
    assert column(place, SIDE) == place.expected(place.things)
    rows = place.tables.open()
    assert [name for name in rows.schema.names if "__" in name] == [SIDE, f"tag_scores{SIDE.removeprefix('tags')}"]
    assert [index.field_names for index in rows.describe_indices()] == [[SIDE]]
    assert {k: v for k, v in place.stored().items() if k in in_use} == in_use


@pytest.mark.parametrize("at", range(4))
def test_a_head_of_a_set_is_killed_at_each_commit(tmp_path: Path, at: int) -> None:
    """Where it replaces one: dropped, added, and two fragments filled."""
    world = World(tmp_path)
    world.embed("a", tar(members(range(3))))
    world.embed("b", tar(members(range(3, 6))))
    world.fill()
    old, new = head(tmp_path, 16, 1), head(tmp_path, 16, 2)
    name = f"aesthetic__{SLUG}"

    def fill(one: Head, run: str, step: Callable[[str], None] = lambda _: None) -> int:
        lease = Lease(world.tables, run, "reembed", key=FILL_KEY)
        lease.take(poll_s=0.05)
        try:
            return fill_heads(world.tables, lease, SLUG, [one], lambda _: None, step)["aesthetic"]
        finally:
            lease.release()

    assert fill(old, "first") == 6
    heard: list[str] = []
    with pytest.raises(Killed):
        fill(new, "killed", killer(at, heard))
    assert heard == [f"drop_columns {name}", f"add_columns {name}", f"fill {name} 0", f"fill {name} 1"][: at + 1]
    assert ("heads" in dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers) is (at > 1)
    assert fill(new, "again") == (3 if at == 3 else 6)
    found = world.tables.open()
    weight = new.layers[0].weight_OI[0]
    for row in found.to_table(columns=[f"vector__{SLUG}", name]).to_pylist():
        stored = np.asarray(row[f"vector__{SLUG}"], np.float64)
        assert row[name] == pytest.approx(stored @ weight / np.linalg.norm(stored), abs=1e-4)
    promote(world.uri, SLUG, STORAGE, LOOSE, HOW)
    assert HEAD_KEY in world.tables.open().schema.field("aesthetic").metadata


@pytest.mark.slow
def test_scores_and_a_vocabulary_beside_are_killed_by_sigkill(tmp_path: Path) -> None:
    place = Place(tmp_path)
    old, new = head(tmp_path, 64, 1), head(tmp_path, 64, 2)
    score(place.uri, old)
    for step in ("fill aesthetic__retag 1", "switch", "drop aesthetic__before"):
        kill("score", place.uri, new.file, step)
        assert scores_are_of(place, new if step.startswith("drop") else old)
    assert score(place.uri, new).written == 0  # the last of them had switched
    assert scores_are_of(place, new)
    for step in (f"fill {SIDE}__retag 2", "switch"):
        kill("retag", place.uri, place.things.vocabulary, step)
        assert SIDE not in place.tables.open().schema.names
    assert place.retag(replace(place.things, beside="side")).written == 0  # all were filled: only the switch was left
    assert column(place, SIDE) == place.expected(place.things)
