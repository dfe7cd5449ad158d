"""A change of model of a table in an object store, of pictures in an object store: fill, promote, back, drop, killed in
between. Without Ray; `test_kill` has whole runs."""

import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.migrating.drop import drop
from clipmill.jobs.migrating.promote import How, back, promote
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table import compat
from clipmill.schemas.job.config import Limits
from tests.build import picture, tar
from tests.committed import Killed, killer
from tests.conftest import S3
from tests.migrating.filling import SLUG, World, members

pytestmark = pytest.mark.s3
LOOSE = GateOptions(min_overlap=0.0, min_coverage=0.5)


def kill_at(step: str) -> How:
    return How(say=lambda _: None, hook=killer(step), settle_s=0.0)


def in_use(world: World) -> tuple[str, str]:
    """(of the newest version, of what readers see)"""
    both = (world.tables.open(), world.tables.open(version="live"))
    return tuple(compat.stored_fingerprint(rows.schema).model for rows in both)  # type: ignore[return-value]


def test_a_set_is_filled_promoted_taken_back_and_dropped(s3_by_options: S3, capsys: pytest.CaptureFixture[str]) -> None:
    """The store is named by options alone, as on the command line."""
    world = World(s3_by_options)
    uri, storage = f"{s3_by_options.uri}/db/images", s3_by_options.storage
    world.embed("a", tar(members(range(0, 5))))
    world.embed("b", tar(members(range(5, 9))))
    with pytest.raises(Killed):
        world.fill(hook=killer("after_fill"), each=True)
    assert world.coverage().filled == 5
    receipts = world.fill(run="second")
    assert [(one.written, one.filled["requests"]) for one in receipts] == [(4, 1)]
    for name, row in world.rows().items():
        pixels = world.new.engine.prepare(picture(int(name)), Limits()).pixels_CHW
        wanted = world.new.engine.encode_images(pixels[None])[0].astype(np.float16)
        assert np.array_equal(np.array(row[f"vector__{SLUG}"], np.float16), wanted)

    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    asked = [uri, SLUG, "--endpoint-url", s3_by_options.endpoint, "--region", "us-east-1"]
    assert cli.run(["promote", *asked, "--dry-run", "--min-overlap", "0"]) == 0
    assert "nothing stands in the way" in capsys.readouterr().out
    with pytest.raises(Killed):
        promote(uri, SLUG, storage, LOOSE, kill_at("after_rename"))
    assert in_use(world) == ("stub", "stub:8")
    done = promote(uri, SLUG, storage, LOOSE, How(say=lambda _: None, settle_s=0.0))
    assert (done.live, in_use(world)) == (done.version, ("stub", "stub"))
    assert len(open_table(uri, storage=storage).search("picture 3", k=3)) == 3

    with pytest.raises(Killed):
        back(uri, storage, kill_at("after_attach"))
    assert in_use(world) == ("stub:8", "stub")
    back(uri, storage, How(say=lambda _: None, settle_s=0.0))
    assert in_use(world) == ("stub:8", "stub:8")
    files = len(s3_by_options.keys("db/images.lance/data/"))
    assert len(drop(uri, SLUG, storage, say=lambda _: None).columns) == 5
    assert not [name for name in world.tables.open().schema.names if "__" in name]
    assert len(s3_by_options.keys("db/images.lance/data/")) == files  # readers of older versions have them for a week
    assert len(open_table(uri, storage=storage).search("picture 3", k=3)) == 3
