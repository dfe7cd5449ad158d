"""Rows that come while another model's set lies beside the one in use get both: by nights and by `embed`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating import beside
from clipmill.jobs.migrating.reembed import reembed
from clipmill.jobs.migrating.reembed_plan import ReembedOptions
from clipmill.jobs.publishing import nightly as module
from clipmill.jobs.publishing.night import Night
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.verifying.status import status
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Limits, Model
from clipmill.schemas.model import ModelSpec
from clipmill.workers.load import load_engine
from tests.build import picture
from tests.integration.conftest import write_job
from tests.integration.help import job, problems, rows, run, tables, versions, write_tar

SET = "stub_16"


def two_sets(folder: Path, **section: Any) -> JobFile:
    """Six rows of stub:8, published, and a whole set of stub:16 beside it."""
    for number in range(2):
        write_tar(folder / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    source = {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}
    made = job(folder, source, model={"name": "stub:8"}, tags={"vocabulary": "coco"}, nightly=section)
    run(made, publish=True)
    assert reembed(made.table, made.storage, ReembedOptions(model=Model(name="stub:16"))).filled == 6
    assert night(made).status == "published"
    return made


def night(made: JobFile) -> Night:
    return nightly(made, say=lambda _: None)


def check(made: JobFile, count: int) -> None:
    """Every row has the vector of its own picture by both models, and tags of both."""
    found = {int(row["uri"].rpartition("#")[2][:5]): row for row in rows(made)}
    assert sorted(found) == list(range(count))
    for name, column in (("stub:8", "vector"), ("stub:16", f"vector__{SET}")):
        engine = load_engine(ModelSpec(name=name))
        pixels = np.stack([engine.prepare(picture(n), Limits()).pixels_CHW for n in range(count)])
        wanted = engine.encode_images(pixels).astype(np.float16)
        assert np.array_equal(np.array([found[n][column] for n in range(count)], np.float16), wanted), name
    assert all(row[f"tags__{SET}"] is not None and row[f"caption_vector__{SET}"] is not None for row in found.values())
    assert not problems(made)


def coverage(made: JobFile) -> tuple[int, int]:
    (one,) = status(made.table, made.storage).sets
    return one["filled"], one["left"]


@pytest.mark.ray
@pytest.mark.slow
def test_rows_of_a_night_get_both_sets_and_a_night_killed_before_that_is_made_up_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two_sets(here)
    write_tar(here / "raw" / "2.tar", range(6, 9))
    found = night(made)
    assert found.status == "published", found
    assert [(one["set"], one["new"], one["filled"], one["left"]) for one in found.sets] == [(SET, 3, 9, 0)]
    assert next(gate for gate in found.gates if gate.name == "sets").value == 1.0
    check(made, 9)
    assert found.live_after == found.versions["rows"]  # readers see the rows with both sets
    before = versions(made)
    assert (night(made).status, versions(made)) == ("nothing", before)

    def killed(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    write_tar(here / "raw" / "3.tar", range(9, 12))
    with monkeypatch.context() as patch:
        patch.setattr(module, "fill_sets", killed)
        with pytest.raises(KeyboardInterrupt):
            night(made)
    assert coverage(made) == (9, 3)
    later = night(made)
    assert (later.status, later.came, later.sets[0]["new"]) == ("published", 0, 3)
    check(made, 12)


@pytest.mark.ray
@pytest.mark.slow
def test_a_set_that_cannot_be_filled_is_weighed_by_a_gate_and_ends_no_night(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two_sets(here)

    def gone(*args: Any, **options: Any) -> Any:
        raise UserError("the checkpoint is not there any more")

    write_tar(here / "raw" / "2.tar", range(6, 9))
    with monkeypatch.context() as patch:
        patch.setattr("clipmill.jobs.migrating.reembed.reembed", gone)
        found = night(made)
    assert (found.status, [gate.name for gate in found.refused]) == ("refused", ["sets"])
    assert "66.67% of the rows have the set 'stub_16', 100.00% in what readers see" in found.refused[0].sentence
    assert found.sets[0]["note"] == "the checkpoint is not there any more"
    assert coverage(made) == (6, 3)

    holder = Lease(tables(made), "other", "reembed", key=FILL_KEY, ttl_s=0.6)
    holder.take(poll_s=0.05)
    holder.keep()
    try:  # a fill that is under way takes these rows too
        found = night(made)
        assert (found.status, found.sets[0]["left"]) == ("published", 3)
        assert "another fill is under way" in found.sets[0]["note"]
    finally:
        holder.release()
    left = night(made.model_copy(update={"nightly": made.nightly.model_copy(update={"sets": "leave"})}))
    assert (left.status, left.sets) == ("nothing", [])
    assert night(made).sets[0]["new"] == 3
    check(made, 9)


@pytest.mark.ray
@pytest.mark.slow
def test_embed_fills_them_too_unless_told_not_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = two_sets(here)
    file = str(write_job(here / "job.yaml", made))
    write_tar(here / "raw" / "2.tar", range(6, 9))
    assert cli.run(["embed", file, "--leave-sets"]) == 0
    assert "set 'stub_16'" not in capsys.readouterr().out
    assert coverage(made) == (6, 3)
    assert cli.run(["embed", file]) == 0  # nothing to embed, and yet something to fill
    assert "set 'stub_16' of stub: 9 of 9 rows filled (3 now)" in capsys.readouterr().out.replace("\n", " ")
    check(made, 9)
    assert cli.run(["embed", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"][0]["new"] == 0


def test_a_checkpoint_is_loaded_as_its_vectors_say() -> None:
    fingerprint = load_engine(ModelSpec(name="stub:16")).fingerprint
    assert beside.model_of(fingerprint).spec() == ModelSpec(name=fingerprint.model)
    file = replace(fingerprint, model="ViT-B-32", pretrained="/weights/b.pt", provenance={"activation": "quickgelu"})
    spec = beside.model_of(file).spec()
    assert (spec.name, spec.pretrained, spec.activation) == ("ViT-B-32", "/weights/b.pt", "quickgelu")
    assert spec.preprocess["mean"] == fingerprint.preprocess.mean
