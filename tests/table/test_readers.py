"""Tags are read while somebody moves them."""

import re
import threading
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.table.readers import tags_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tagged(tmp_path: Path) -> tuple[lance.LanceDataset, Path]:
    rows = lance.write_dataset(pa.table({"id": ["a"]}), str(tmp_path / "t.lance"))
    rows.tags.create("live", 1)
    (file,) = (tmp_path / "t.lance" / "_refs" / "tags").glob("live*")
    return rows, file


def test_a_tag_that_is_cut_off_for_a_moment_is_read_again(tagged: tuple[lance.LanceDataset, Path]) -> None:
    rows, file = tagged
    whole = file.read_bytes()
    file.write_bytes(whole[:-2])
    with pytest.raises((RuntimeError, ValueError, OSError), match=r"refs\.rs"):
        rows.tags.list()
    timer = threading.Timer(0.05, file.write_bytes, [whole])
    timer.start()
    assert tags_of(rows)["live"]["version"] == 1
    timer.join()


def test_one_that_stays_so_is_an_error(tagged: tuple[lance.LanceDataset, Path]) -> None:
    rows, file = tagged
    file.write_bytes(b"{")
    with pytest.raises((RuntimeError, ValueError, OSError), match=r"refs\.rs"):
        tags_of(rows)


def test_nobody_reads_tags_another_way() -> None:
    for path in (ROOT / "jobs").rglob("*.py"):
        found = re.findall(r"\.tags\.list\(", path.read_text("utf-8"))
        assert len(found) == (path.name == "readers.py"), path
