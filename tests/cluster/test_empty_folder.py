"""A driver's empty folder: a killed one's is removed by the next, one that is worked in never."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clipmill.jobs.cluster import empty_folder
from clipmill.jobs.cluster.connect import connected
from clipmill.schemas.errors import ClipmillError

DRIVER = """
import time
from clipmill.jobs.cluster import empty_folder
print(empty_folder.make(), flush=True)
time.sleep(60)
"""


def old(folder: Path) -> Path:
    os.utime(folder, (1, 1))
    return folder


def test_only_folders_that_nobody_works_in_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", DRIVER]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    try:
        killed, alive = [Path((one.stdout or sys.stdin).readline().strip()) for one in drivers]
        drivers[0].send_signal(signal.SIGKILL)
        drivers[0].wait(10)
        others = [tmp_path / name for name in ("clipmill-run-full", "clipmill-run-young", "clipmill-vectors")]
        for other in others:
            other.mkdir()
        (others[0] / "file").touch()
        for one in (killed, alive, others[0], others[2]):
            old(one)
        mine = Path(empty_folder.make())
        assert sorted(tmp_path.iterdir()) == sorted([alive, mine, *others])
    finally:
        for one in drivers:
            one.kill()
            one.wait(10)
            (one.stdout or sys.stdin).close()


def test_a_tmpdir_that_ray_cannot_write_to_is_named_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint was to free memory."""
    import ray

    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/ray")  # as Ray's Node makes its folder

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.chdir(os.getcwd())  # which a driver leaves
    with pytest.raises(ClipmillError, match="Permission denied: '/elsewhere/ray'") as told, connected(None):
        pass
    assert told.value.hint.startswith("set TMPDIR to a folder that can be written to")
