"""Files that are written whole or not at all: what the disk says is said of the file that somebody asked for."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from clipmill.jobs.exploring import train_head
from clipmill.jobs.pushing import push
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.storage import put_bytes
from clipmill.workers.store.whole import written_whole
from tests.conftest import unprivileged
from tests.tables import fingerprint

WRITE: dict[str, Callable[[Path], object]] = {
    "an object": lambda path: put_bytes(str(path), b"x", Storage()),
    "a head": lambda path: train_head._write(str(path), np.ones(4), 0.0, fingerprint(4)),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """That anybody may look into, and nobody else write; pytest's own may not even be entered."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.parametrize("what", WRITE)
@pytest.mark.parametrize("how", ["forbidden", "taken", "long"])
def test_the_file_that_was_asked_for_is_named(tmp_path: Path, folder: Path, what: str, how: str) -> None:
    WRITE[what](tmp_path / "before.safetensors")  # what it imports nobody may read
    path = folder / ("x" * 240 if how == "long" else "head.safetensors")
    if how == "long":  # there is room for it, and so for what is written first
        path = path.with_name(path.name + ".safetensors")
        WRITE[what](path)
        assert os.listdir(folder) == [path.name]
        return
    if how == "taken":
        path.mkdir()
        with pytest.raises((OSError, UserError)) as error:
            WRITE[what](path)
    else:
        with unprivileged(), pytest.raises((OSError, UserError)) as error:
            WRITE[what](path)
    assert f"{path}" in str(error.value)
    assert ".part" not in str(error.value)
    assert os.listdir(folder) == ([path.name] if how == "taken" else [])


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device: 'other'"), written_whole(path) as half:
        half.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", "other")
    assert (os.listdir(tmp_path), path.read_text()) == (["file"], "old")
    with written_whole(path) as half:
        half.write_text("new")
    assert (os.listdir(tmp_path), path.read_text()) == (["file"], "new")


def test_a_folder_that_takes_no_data_set_is_named(tmp_path: Path) -> None:
    with (
        unprivileged(),
        pytest.raises(UserError, match="cannot be written in") as error,
        push._building(str(tmp_path / "folder" / "set")),
    ):
        raise AssertionError
    assert ".part" not in str(error.value)
