"""A user whose own folders are called `workers`, `jobs` and `schemas` gets ours all the same, in every process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, last_json, write_job
from tests.integration.help import job, problems, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TRAP = """
import os
open({marker!r}, "a").write(__file__ + "\\n")
raise RuntimeError("the user's own module was imported")
"""


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """(a folder whose modules betray that they were imported, the file in which they do)."""
    folder, marker = tmp_path / "mine", tmp_path / "imported.txt"
    for package in ("workers", "jobs", "schemas"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(TRAP.format(marker=str(marker)))
    for module in ("click", "numpy"):  # what belongs to others is not shadowed on the workers either
        (folder / f"{module}.py").write_text(TRAP.format(marker=str(marker)))
    write_tar(tmp_path / "raw" / "a.tar", range(4))
    source = {"format": "webdataset", "uri": f"{tmp_path}/raw/*.tar", "caption": "txt"}
    write_job(folder / "job.yaml", job(tmp_path, source))
    return folder, marker


def run_in(folder: Path, command: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*command, "embed", "job.yaml", "--json"],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("how", ["installed command", "script in that folder"])
def test_folders_named_like_ours_are_not_imported(trapped: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    folder, marker = trapped
    script = Path(sys.executable).with_name("clipmill")
    env: dict[str, str] = {}
    if how == "installed command":
        command = [str(script)]
    else:
        # Python itself puts a script's folder first, so that the script can only mean its own modules; -P is how a
        # person says otherwise, and then Ray must not put the folder back.
        copy = folder / "run.py"
        copy.write_text(script.read_text())
        command, env = [sys.executable, "-P", str(copy)], {"PYTHONPATH": str(ROOT)}
    done = run_in(folder, command, env)
    assert not marker.exists(), marker.read_text()
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_json(done.stdout)["rows"] == 4
    source = {"format": "webdataset", "uri": f"{tmp_path}/raw/*.tar", "caption": "txt"}
    assert problems(job(tmp_path, source)) == []
