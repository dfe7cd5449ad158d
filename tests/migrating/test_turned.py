"""A photograph that lies on its side has the same vector whether its own EXIF says so or the source does, everywhere
that pictures of rows are read again. Real tables, the stub's vectors: of the decoded pixels, all or nothing."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.planning.listing import list_source, plan_for
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.table import ledger
from clipmill.jobs.table.compat import check_columns
from clipmill.jobs.table.originals import Originals, place_columns
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.columns import ORIENTATION_FIELD
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Limits
from clipmill.schemas.unit.receipts import Outcome
from clipmill.schemas.unit.tasks import Task
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.decode.picture import decode
from clipmill.workers.read.orientation import stamped
from clipmill.workers.reuse import Remembered
from clipmill.workers.store.storage import head
from clipmill.workers.unit import UnitRun
from tests.build import picture, tar
from tests.migrating.filling import SLUG, STORAGE, World

SEEDS = range(4)
ROTATED = json.dumps({"exif": json.dumps({"Image Orientation": "Rotated 90 CW"})}).encode()


def direct() -> bytes:
    """As phones write them."""
    return tar([(f"{n}.jpg", stamped(picture(n), 6)) for n in SEEDS])


def through_img2dataset() -> bytes:
    """The same without EXIF, and a word about it beside each."""
    return tar([one for n in SEEDS for one in ((f"{n}.jpg", picture(n)), (f"{n}.json", ROTATED))])


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, orientation="json:exif")
    made.embed("direct", direct())
    made.embed("side", through_img2dataset())
    return made


def pairs(world: World, column: str) -> list[tuple[object, object]]:
    rows = {row["uri"].rpartition("/")[2]: row[column] for row in world.tables.open().to_table().to_pylist()}
    return [(rows[f"direct.tar#{n}.jpg"], rows[f"side.tar#{n}.jpg"]) for n in SEEDS]


def test_embed_and_a_fill_give_the_vectors_of_the_upright_picture(world: World) -> None:
    assert pairs(world, "orientation") == [(None, 6)] * 4
    assert pairs(world, "width") == [(24, 24)] * 4, "stored 32 x 24"
    world.fill()
    report = verify(world.uri, STORAGE)
    assert (report.problems, report.missing) == ([], []), "the set has no vocabulary, so no tags are to come"
    for column in ("vector", f"vector__{SLUG}"):
        for one, other in pairs(world, column):
            assert one is not None
            np.testing.assert_array_equal(one, other)


def test_verify_export_and_whoever_reads_a_picture_turn_it(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", world.uri, "--sample", "8", "--json"]) == 0, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["sample_min_cosine"] > 0.999
    rows = world.tables.open()
    for row in rows.to_table(columns=list(place_columns(rows.schema))).to_pylist():
        read = decode(Originals(world.tables).read(row), Limits(), target_px=None)
        assert (read.width, read.height) == (24, 32)
    assert run(["export", world.uri, "--to", str(tmp_path / "out"), "--format", "webdataset"]) == 0
    with tarfile.open(tmp_path / "out" / "00000.tar") as packed:
        written = [packed.extractfile(one) for one in packed if one.name.endswith(".jpg")]
        sizes = {decode(one.read(), Limits(), target_px=None).width for one in written if one}
    assert (len(written), sizes) == (8, {24})


def test_without_the_option_the_same_bytes_are_another_picture(world: World) -> None:
    """Neither the content's hash nor the vectors of equal bytes are those of a picture that lies otherwise."""
    seen = head(str(Path(world.folder, "side.tar")), STORAGE)
    unit = WorkUnit(unit_id="v", format="webdataset", uri=seen.uri, etag=seen.etag, size_bytes=seen.size_bytes)
    turned = UnitRun(Task(unit=unit, attempt=1), world.context("again"), world.old).run()
    plain = replace(world.context("plain"), source=world.source.model_copy(update={"orientation": None}))
    lying = UnitRun(Task(unit=unit, attempt=1, known={turned.content_hash: "side2"}), plain, world.old).run()
    assert lying.outcome is Outcome.DONE
    assert lying.content_hash != turned.content_hash
    known = Remembered(world.tables.open(), ["side2"])
    image_hash = world.tables.open().to_table(columns=["image_hash"], filter="unit_id = 'side2'").to_pylist()[0]
    assert known.rows_of([(image_hash["image_hash"], None, 6)]) is not None
    assert known.rows_of([(image_hash["image_hash"], None, None)]) is None


def test_a_job_that_forgot_the_option_does_not_lay_turned_pictures_down_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan_of(**source: Any) -> Plan:
        asked = {"format": "webdataset", "uri": f"{world.folder}/*.tar", "caption": "txt", **source}
        job = JobFile.model_validate({"table": world.uri, "source": asked, "model": {"name": "stub:8"}})
        return plan_for(job, world.tables, list_source(job), ledger.read_ledger(world.tables))

    with pytest.raises(
        UserError, match=r"4 rows to be replaced have an orientation .* no source\.orientation"
    ) as error:
        plan_of()
    assert "orientation: json:exif" in error.value.hint
    assert len(plan_of(orientation="json:exif").todo) == 2
    assert len(plan_of(uri=f"{world.folder}/direct.tar").todo) == 1, "whose rows have none"
    job = world.folder / "job.yaml"
    source = {"format": "webdataset", "uri": f"{world.folder}/direct.tar"}
    job.write_text(json.dumps({"table": world.uri, "source": source, "model": {"name": "stub:8"}}))
    assert run(["plan", str(job)]) == 0
    assert "the job has no source.orientation: new rows have null there" in capsys.readouterr().err


def test_verify_names_an_orientation_that_is_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.tables.open().update({"orientation": "cast(9 as tinyint)"}, where="orientation = 6")
    assert run(["verify", world.uri, "--json"]) == 3
    assert "orientation 9 is none of EXIF's, 1 to 8" in capsys.readouterr().out


def test_a_table_that_was_made_without_it_gets_the_column(tmp_path: Path) -> None:
    source = {"format": "webdataset", "uri": "x.tar", "orientation": "json:exif"}
    job = JobFile.model_validate({"table": f"{tmp_path}/db/t", "source": source})
    world = World(tmp_path)
    lying = world.embed("side", through_img2dataset())
    check_columns(world.tables.open().schema, job)
    world.tables.add_columns("", [ORIENTATION_FIELD])
    world.tables.add_columns("", [ORIENTATION_FIELD])  # as the next run does
    world.source = world.source.model_copy(update={"orientation": "json:exif"})
    world.embed("direct", direct())
    world.embed("side", through_img2dataset(), replaces=lying)
    assert pairs(world, "orientation") == [(None, 6)] * 4
    for one, other in pairs(world, "vector"):
        np.testing.assert_array_equal(one, other)
    report = verify(world.uri, STORAGE, sample=8)
    assert (report.problems, report.sampled) == ([], 8)
    kept = pa.schema([*world.tables.open().schema.remove(world.tables.open().schema.get_field_index("orientation"))])
    with pytest.raises(UserError, match="keeps a column orientation of its own"):
        check_columns(kept.append(pa.field("orientation", pa.string())), job)
