"""A set of another model beside the one in use: filled by whole runs with the stub model, of other dimensions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.upkeep.reembed import Reembedded, reembed
from clipmill.jobs.upkeep.reembed_plan import ReembedOptions
from clipmill.schemas.config import JobFile, Limits, Model
from clipmill.workers.load import load_engine
from tests.build import picture
from tests.integration.help import job, problems, rows, run, write_tar

pytestmark = pytest.mark.ray


def bucket(folder: Path, count: int = 2, *, model: str = "stub:8", **more: Any) -> JobFile:
    for number in range(count):
        write_tar(folder / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    source = {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}
    more = {"tags": {"vocabulary": "coco"}, **more}
    return job(folder, source, model={"name": model}, **more)


def options(model: str = "stub:16", **more: Any) -> ReembedOptions:
    return ReembedOptions(model=Model(name=model), **more)


def fill(made: JobFile, **more: Any) -> Reembedded:
    return reembed(made.table, made.storage, options(**more))


def expected(seeds: range, dim: int) -> Any:
    from clipmill.schemas.model import ModelSpec

    engine = load_engine(ModelSpec(name=f"stub:{dim}"))
    pixels = [engine.prepare(picture(seed), Limits()).pixels_CHW for seed in seeds]
    return engine.encode_images(np.stack(pixels)).astype(np.float16)


def test_every_row_is_filled_with_the_other_models_vectors_and_tags(here: Path) -> None:
    made = bucket(here)
    run(made)
    before = rows(made)
    done = fill(made)
    assert (done.rows, done.filled, done.failed, done.left, done.rejects) == (6, 6, 0, 0, {})
    assert done.set == "stub_16"
    after = sorted(rows(made), key=lambda row: row["uri"])
    vectors = np.array([row["vector__stub_16"] for row in after], np.float16)
    assert np.array_equal(vectors, expected(range(6), 16))
    for row, old in zip(after, sorted(before, key=lambda row: row["uri"]), strict=True):
        assert {name: row[name] for name in old} == old
        assert len(row["caption_vector__stub_16"]) == 16
        score = float(np.dot(np.float32(row["vector__stub_16"]), np.float32(row["caption_vector__stub_16"])))
        assert row["caption_score__stub_16"] == pytest.approx(score, abs=0.01)
        assert len(row["tags__stub_16"]) == len(row["tag_scores__stub_16"])
    assert problems(made) == []
    again = fill(made)
    assert (again.run, again.filled, again.left) == ("", 6, 0)
