"""Files that broke image libraries, among good pictures: each is a row or a named reject, and none takes others along.

`bad_inputs_pillow13_outcomes.csv` says what Pillow 13 makes of each, and clipmill agrees on every one but those whose
picture is whole (`tests.decode.test_bad_inputs.WHOLE`).
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.schemas.unit.rejects import Reason
from clipmill.workers.load import load_engine
from tests.build import tar
from tests.decode.test_bad_inputs import WHOLE
from tests.integration.help import job, problems, rejects, rows, run

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.realdata]

SUFFIXES = "jpg;jpeg;png;bmp;gif;ico;tif;tiff"
REASONS = {Reason.CORRUPT, Reason.TRUNCATED, Reason.UNKNOWN_FORMAT, Reason.TOO_MANY_PIXELS, Reason.EMPTY}


def outcomes(folder: Path) -> dict[str, str]:
    """File name -> outcome; the list's own duplicates collapse."""
    with open(folder / "bad_inputs_pillow13_outcomes.csv", newline="") as lines:
        return {row["file"]: row["outcome_with_pillow_13.0.0"] for row in csv.DictReader(lines)}


def member(file: str) -> str:
    """A name whose first dot begins the extension, as webdataset reads names, and whose key no other file has."""
    name = file.removeprefix("bad_inputs/").replace("/", "-")
    stem, _, suffix = name.rpartition(".")
    return f"{stem.replace('.', '-')}-{suffix}.{suffix}"


@pytest.mark.timeout(600)
def test_every_bad_file_ends_as_its_list_says_and_its_batch_is_whole(here: Path, real_data: Path) -> None:
    expected = {member(file): outcome for file, outcome in outcomes(real_data).items()}
    assert len(expected) == len(outcomes(real_data)) >= 80
    good = sorted((real_data / "clothing").rglob("*.jpg"))
    members: list[tuple[str, bytes]] = []
    kept: dict[str, bytes] = {}
    for number, file in enumerate(outcomes(real_data)):
        around = [good[(2 * number + i) % len(good)] for i in (0, 1)]
        for i, path in enumerate(around):
            kept[f"good{number}-{i}.jpg"] = path.read_bytes()
        members.append((f"good{number}-0.jpg", around[0].read_bytes()))
        members.append((member(file), (real_data / file).read_bytes()))
        members.append((f"good{number}-1.jpg", around[1].read_bytes()))
    (here / "raw").mkdir()
    (here / "raw" / "all.tar").write_bytes(tar(members))
    source = {"format": "webdataset", "uri": f"{here}/raw/all.tar", "image": SUFFIXES}
    made = job(here, source, model={}, workers={"num": 1, "batch_size": 16})
    summary = run(made)

    assert summary.seen == len(members)
    assert summary.failed_units == []
    assert summary.worker_restarts == 0
    assert problems(made) == []
    present = {row["uri"].rpartition("#")[2]: row for row in rows(made, "uri", "vector")}
    refused = {reject["uri"].rpartition("#")[2]: reject for reject in rejects(made)}
    assert present.keys() | refused.keys() == {name for name, _ in members}
    assert not present.keys() & refused.keys()
    assert {Reason(reject["reason"]) for reject in refused.values()} <= REASONS
    assert all(reject["detail"] for reject in refused.values())
    whole = {member(file) for file in outcomes(real_data) if file.rpartition("/")[2] in WHOLE}
    assert len(whole) == len(WHOLE)
    unexpected = {
        name: (outcome, refused[name]["reason"] + ": " + refused[name]["detail"] if name in refused else "a row")
        for name, outcome in expected.items()
        if (name in present) != (outcome.startswith("ok_") or name in whole)
    }
    assert unexpected == {}
    bombs = [name for name, outcome in expected.items() if outcome.startswith("DecompressionBomb")]
    assert {refused[name]["reason"] for name in bombs} == {Reason.TOO_MANY_PIXELS}

    assert kept.keys() <= present.keys()
    engine = load_engine(ModelSpec(name="clipmill-tiny"))
    for name in [*kept][:: max(1, len(kept) // 24)]:
        pixels_1CHW = engine.prepare(kept[name], Limits()).pixels_CHW[None]
        cosine = float(engine.encode_images(pixels_1CHW)[0] @ np.asarray(present[name]["vector"], np.float32))
        assert cosine > 0.999, name
