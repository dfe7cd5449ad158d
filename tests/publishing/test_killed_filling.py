"""Nights that die of SIGKILL while they fill a set beside, its head's scores and further tags: the next one goes on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.table.readers import readers
from clipmill.schemas.job.config import JobFile
from tests.integration.conftest import ROOT, write_job
from tests.integration.help import job, problems, rows, tables, versions, write_tar
from tests.publishing.test_heads import SET, SIDE, columns, head_file, night

HEAD = f"aesthetic__{SET}"
# Of the two fragments that a night brings, each time one is filled, and the second killed right before its commit.
STEPS = (("before_fill:2", f"vector__{SET}"), (f"fill {HEAD}:2", HEAD), (f"fill {SIDE}:2", SIDE))


def killed(file: Path, step: str) -> None:
    """It must have died inside the step, of SIGKILL."""
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tests.publishing.driver", str(file), address, "nightly", step]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, (step, done.returncode, done.stderr[-3000:])


def filled(made: JobFile) -> dict[str, int]:
    """Rows with a value, of what lies beside."""
    return {name: tables(made).open().count_rows(f"{name} IS NOT NULL") for _, name in STEPS}


def replacements(made: JobFile) -> int:
    """Commits that put a file of columns into a fragment."""
    found = tables(made).open().get_transactions(200)
    return sum("DataReplacement" in type(one.operation).__name__ for one in found)


def by_id(made: JobFile) -> dict[str, dict[str, Any]]:
    found = rows(made)
    assert len({row["id"] for row in found}) == len(found), "an id is there twice"
    return {row["id"]: row for row in found}


@pytest.mark.ray
@pytest.mark.slow
def test_the_night_after_fills_what_was_not_committed_and_nothing_twice(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(here / "raw" / "0.tar", range(3))
    source = {"format": "webdataset", "uri": f"{here}/raw/*.tar", "caption": "txt"}
    often = {"commit": {"every_rows": 1, "every_s": 3600}, "workers": {"num": 1, "units_in_flight": 1}}
    made = job(here, source, model={"name": "stub:8"}, tags={"vocabulary": "coco"}, **often)
    assert night(made).status == "published"
    new = head_file(here / "new.safetensors", 2, 16)
    assert cli.run(["reembed", made.table, "--model", "stub:16", "--head", f"aesthetic={new}"]) == 0
    assert cli.run(["retag", made.table, "--vocabulary", "scenes", "--as", "side", "--min-score", "0"]) == 0
    assert night(made).status == "published"
    capsys.readouterr()

    for number in (1, 2):
        write_tar(here / "raw" / f"{number}.tar", range(number * 3, number * 3 + 3))
    shutil.copytree(here / "db", here / "other" / "db")
    whole = made.model_copy(update={"table": f"{here}/other/db/images"})
    live, before = readers(tables(made).open()).live, replacements(made)
    file, expected = write_job(here / "job.yaml", made), dict.fromkeys((name for _, name in STEPS), 3)
    for step, column in STEPS:
        killed(file, step)
        reached = list(expected).index(column)
        expected |= dict.fromkeys(list(expected)[:reached], 9) | {column: 6}
        assert filled(made) == expected, step
        assert readers(tables(made).open()).live == live, "readers see nothing of a night that was killed"

    found = night(made)
    assert (found.status, found.came, found.live_after) == ("published", 0, found.versions["rows"]), found
    assert [(one["new"], one["filled"], one["left"]) for one in found.sets] == [(0, 9, 0)]
    assert columns(found) == {SIDE: (3, 0)}
    assert replacements(made) - before == 2 * len(STEPS), "each fragment once for the set, its head and the tags"
    assert not problems(made)
    at = versions(made)
    assert (night(made).status, versions(made)) == ("nothing", at)

    assert night(whole).status == "published"
    assert by_id(made) == by_id(whole), "what an uninterrupted night gives, to the last bit"
