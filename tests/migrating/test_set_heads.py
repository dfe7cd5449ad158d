"""Heads of a set beside: filled from the set's own vectors, promoted, taken back and dropped with it."""

from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.drop import drop
from clipmill.jobs.migrating.promote import back, dry_run, promote
from clipmill.jobs.migrating.score import score
from clipmill.jobs.migrating.set_heads import fill_heads
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table import compat
from clipmill.jobs.table import heads as table_heads
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.heads import Head, HeadFile
from clipmill.workers.heads import load_head
from tests.build import tar
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_promote import LOOSE, OLD, how


def head(folder: Path, dim: int, seed: int = 0) -> Head:
    path = folder / f"head{dim}{seed}.npz"
    np.savez(path, weight=np.random.default_rng(seed).standard_normal((1, dim)).astype(np.float32))
    return load_head("aesthetic", HeadFile(file=str(path)))


def fill(world: World, one: Head) -> int:
    lease = Lease(world.tables, f"heads{world.runs}", "reembed", key=FILL_KEY)
    lease.take(poll_s=0.05)
    try:
        return fill_heads(world.tables, lease, SLUG, [one], lambda _: None)["aesthetic"]
    finally:
        lease.release()


def check(world: World, one: Head, vector: str, column: str) -> None:
    for row in world.rows().values():
        stored = np.asarray(row[vector], np.float64)
        expected = stored @ one.layers[0].weight_OI[0] / np.linalg.norm(stored)
        assert row[column] == pytest.approx(expected, abs=1e-4)


def test_scores_of_a_set_go_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(0, 6))))
    world.fill()
    old, new = head(tmp_path, 8), head(tmp_path, 16)
    score(world.uri, old, STORAGE)
    assert fill(world, head(tmp_path, 16, seed=1)) == 6
    assert fill(world, new) == 6  # another head: all anew
    assert fill(world, new) == 0
    check(world, new, f"vector__{SLUG}", f"aesthetic__{SLUG}")
    shown = open_table(world.uri).search(where="aesthetic IS NOT NULL", k=10)
    assert "aesthetic" in shown.column_names
    assert f"aesthetic__{SLUG}" not in shown.column_names

    # Rows that come later have vectors of the set after the next fill, and scores after that.
    world.embed("b", tar(members(range(6, 9))))
    world.fill(run="fill2")
    assert "'aesthetic' 3" in dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers["heads"]
    assert fill(world, new) == 3
    score(world.uri, old, STORAGE)

    promote(world.uri, SLUG, STORAGE, LOOSE, how())
    check(world, new, "vector", "aesthetic")
    check(world, old, f"vector__{OLD}", f"aesthetic__{OLD}")
    schema = world.tables.open().schema
    with pytest.raises(UserError, match="8 numbers, those of stub have 16"):
        table_heads.check_table(schema, [old])
    table_heads.check_table(schema, [new])
    compat.check_columns(schema, _job(world))
    back(world.uri, STORAGE, how())
    check(world, old, "vector", "aesthetic")
    check(world, new, f"vector__{SLUG}", f"aesthetic__{SLUG}")
    drop(world.uri, SLUG, STORAGE, say=lambda _: None)
    assert not [name for name in world.tables.open().schema.names if name.endswith(SLUG)]


def test_a_head_that_the_set_has_not_stays_and_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(0, 4))))
    world.fill()
    old = head(tmp_path, 8)
    score(world.uri, old, STORAGE)
    done = promote(world.uri, SLUG, STORAGE, LOOSE, how())
    assert "'aesthetic' stay those on the model before" in done.notes[0]
    check(world, old, f"vector__{OLD}", "aesthetic")
    with pytest.raises(UserError, match="'uri' is a column"):
        table_heads.check_free(world.tables.open().schema, load_head("uri", HeadFile(file=old.file)))


def _job(world: World) -> object:
    from tests.integration.help import job

    return job(world.folder, {"format": "webdataset", "uri": f"{world.folder}/*.tar"})
