"""Killed inside the building of a set's indices, inside dropping one, and by SIGKILL: processes of their own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipmill.jobs.indexing import build
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.migrating import drop as dropping
from clipmill.jobs.migrating import set_index
from clipmill.jobs.migrating.promote import How, back, dry_run, promote
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.migrating.reembed import reembed
from clipmill.jobs.migrating.reembed_plan import ReembedOptions
from clipmill.jobs.migrating.set_index import build_set_index
from clipmill.jobs.querying.curve import CONFIG_KEY
from clipmill.jobs.table import compat, sets
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Model
from tests.build import tar
from tests.committed import Killed, killer
from tests.integration.help import job, problems, run, tables, write_tar
from tests.migrating.filling import SLUG, STORAGE, World, members

ROOT = Path(__file__).resolve().parents[2]
LOOSE = GateOptions(min_overlap=0.0, min_coverage=0.5)
HOW = How(say=lambda _: None, settle_s=0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.embed("a", tar(members(range(12))))
    made.fill()
    return made


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows get indices."""
    monkeypatch.setattr(set_index, "SMALL", 1)
    plan = VectorPlan(kind="IVF_HNSW_SQ", num_partitions=1)
    monkeypatch.setattr(build, "plan_vector_index", lambda *asked: plan)


def indices(world: World) -> set[str]:
    return {name for index in world.tables.open().describe_indices() for name in index.field_names}


VECTOR, TAGS = f"vector__{SLUG}", f"tags__{SLUG}"


@pytest.mark.parametrize(
    ("step", "there"),
    [
        (f"{VECTOR}: training 1 partition", set[str]()),
        (f"{VECTOR}: building IVF_HNSW_SQ", set[str]()),
        (f"{TAGS}: building LABEL_LIST", {VECTOR}),
    ],
)
def test_a_kill_while_the_sets_indices_are_built(world: World, indexed: None, step: str, there: set[str]) -> None:
    build_index(world.uri, IndexOptions(kind="hnsw_sq", columns=("vector",)))
    with pytest.raises(Killed):
        build_set_index(world.tables, SLUG, tell=killer(step))
    assert indices(world) & {VECTOR, TAGS} == there
    assert ("index" in dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers) == (VECTOR not in there)
    assert build_set_index(world.tables, SLUG).startswith("IVF_HNSW_SQ, recall@10")
    assert indices(world) >= {VECTOR, TAGS}
    promote(world.uri, SLUG, STORAGE, LOOSE, HOW)
    assert indices(world) >= {"vector", "tags"}, "an index moves with its column"


@pytest.mark.parametrize("step", dropping.STEPS)
def test_a_kill_while_a_set_with_indices_is_dropped(world: World, indexed: None, step: str) -> None:
    build_set_index(world.tables, SLUG)

    def reports() -> list[str]:
        return [key for key in world.tables.open().config() if key.startswith(CONFIG_KEY + VECTOR)]

    with pytest.raises(Killed):
        dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None, hook=killer(step))
    assert bool(reports()) == (step != "after_cleanup")
    if step != "after_cleanup":
        dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None)
    with pytest.raises(UserError, match="no set"):
        dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None)
    assert not reports()
    assert not indices(world) & {VECTOR, TAGS}
    world.fill(run="again")  # under the same name
    assert world.coverage().left == 0


def kill(what: str, table: str, slug: str, step: str, times: int = 1) -> None:
    """It must have died inside the step, of SIGKILL."""
    command = [sys.executable, "-m", "tests.migrating.killed", what, table, slug, step, str(times)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]


@pytest.mark.slow
def test_promote_back_and_drop_killed_by_sigkill(world: World) -> None:
    def model() -> str:
        return compat.stored_fingerprint(world.tables.open().schema).model

    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    kill("promote", world.uri, SLUG, "after_detach")
    assert model() == "stub:8"
    kill("promote", world.uri, SLUG, "after_rename")
    assert model() == "stub"
    assert compat.stored_fingerprint(world.tables.open(version="live").schema).model == "stub:8"
    promote(world.uri, SLUG, STORAGE, LOOSE, HOW)
    assert compat.stored_fingerprint(world.tables.open(version="live").schema).model == "stub"
    kill("back", world.uri, SLUG, "after_rename")
    assert model() == "stub:8"
    back(world.uri, STORAGE, HOW)
    assert compat.stored_fingerprint(world.tables.open(version="live").schema).model == "stub:8"
    kill("drop", world.uri, SLUG, "before_drop")
    assert sets.coverage(world.tables, world.tables.open(), SLUG).left == 0
    kill("drop", world.uri, SLUG, "after_drop")
    assert dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None).columns == []
    with pytest.raises(UserError, match="no set"):
        dropping.drop(world.uri, SLUG, STORAGE, say=lambda _: None)
    assert world.tables.open().count_rows("vector IS NOT NULL") == 12


@pytest.mark.slow
@pytest.mark.ray
def test_a_fill_killed_by_sigkill_goes_on_with_what_was_not_committed(here: Path) -> None:
    for number in range(4):
        write_tar(here / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar", "caption": "txt"}
    often = {"every_rows": 1, "every_s": 3600}
    made = job(here, source, model={"name": "stub:8"}, commit=often, workers={"num": 1, "units_in_flight": 1})
    run(made)
    kill("fill", made.table, "stub_16", "before_fill", 3)
    found = sets.coverage(tables(made), tables(made).open(), "stub_16")
    assert (found.filled, found.left) == (6, 6)
    done = reembed(made.table, made.storage, ReembedOptions(model=Model(name="stub:16")))
    assert (done.rows, done.filled, done.left) == (6, 12, 0)
    assert not problems(made)
