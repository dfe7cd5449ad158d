"""What maintenance takes does not grow with the table: it holds the rows of a task's batches, never the table's."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]  # a run in this process has left it
ROWS = (20_000, 100_000)
# 80,000 rows more are 82 MB of vectors as stored, and twice that where anything copied them. Seen: 27 to 40 MB, of what
# a fragment of 100,000 rows and its indices take while they are written; more rows are further fragments.
MOST_BYTES = 70_000_000


def memory(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.maintaining.memory", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


def once(folder: Path, rows: int) -> int:
    """What more is taken at times is what the allocator held on to, so the less of two counts."""
    memory("make", str(folder), str(rows))
    return int(memory("measure", str(folder)))


@pytest.mark.slow
@pytest.mark.counted
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel's peak is set back by Linux only")
def test_five_times_the_rows_take_little_more_memory(tmp_path: Path) -> None:
    grew = {rows: min(once(tmp_path / f"{rows}-{time}", rows) for time in range(2)) for rows in ROWS}
    assert grew[ROWS[1]] - grew[ROWS[0]] < MOST_BYTES, grew
    assert grew[ROWS[0]] < 250_000_000, grew
