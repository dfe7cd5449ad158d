"""The printed crontab, run by a real cron daemon of our own, whose spool nobody else sees."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.scheduling.night import Night, files
from clipmill.jobs.scheduling.when import daily
from tests.integration import help
from tests.scheduling.nights import text

ZONE = "Asia/Kathmandu"  # a quarter of an hour off everybody else

# In a mount namespace of its own: its spool, and a /run, where cron sees to it that it is the only one.
PRIVATE = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mount --bind "$1/spool" /var/spool/cron/crontabs
mount --bind "$1/none" /etc/cron.d
mount --bind "$1/empty" /etc/crontab
exec cron -f
"""


def can_start_a_cron_of_our_own() -> bool:
    if os.geteuid() or not shutil.which("cron") or not shutil.which("unshare") or not Path("/etc/crontab").exists():
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/run"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


@contextmanager
def cron(folder: Path, crontab: str) -> Iterator[None]:
    for name in ("spool", "none"):
        (folder / name).mkdir()
    (folder / "empty").touch()
    (folder / "spool" / "root").write_text(crontab)
    (folder / "spool" / "root").chmod(0o600)
    (folder / "spool").chmod(0o1730)
    daemon = subprocess.Popen(["unshare", "-m", "sh", "-c", PRIVATE, "sh", str(folder)])
    try:
        yield
        assert daemon.poll() is None, "cron ended"
    finally:
        daemon.kill()
        daemon.wait()


@pytest.fixture
def short() -> Iterator[Path]:
    """Cron takes a line of 999 characters, and pytest's folders have long names."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(not can_start_a_cron_of_our_own(), reason="needs root, Debian's cron and namespaces")
def test_cron_runs_the_night_twice_and_the_second_meets_the_first(short: Path) -> None:
    """Two lines for the same table, a minute apart. The first is at it until the second has come; both say how they
    ended through --alert, the first with the code of the real command, the second with 5."""
    folder = short / "it's 100% here"
    folder.mkdir()
    help.write_tar(folder / "raw" / "0.tar", range(3))
    (folder / "my job.yaml").write_text(
        "table: db/images\nsource: {format: webdataset, uri: raw/*.tar}\nmodel: {name: stub}\nworkers: {num: 1}\n"
    )
    ended, second = folder / "ended 100%", folder / "second"
    program = folder / "first %"
    # The real command on a job with relative paths; then it waits, and ends with a code that is told.
    program.write_text(
        f'#!/bin/sh\n[ "$1" = nightly ] || exit 9\n{sys.executable} -m clipmill nightly "$2" || exit 8\n'
        f"for _ in $(seq 300); do [ -e second ] && exit 3; sleep 1; done\nexit 7\n"
    )
    program.chmod(0o755)
    start = datetime.now(UTC)
    if start.second > 50:  # cron reads its spool at the full minute
        time.sleep(11)
        start = datetime.now(UTC)
    lines = []
    for minutes in (1, 2):
        there = (start + timedelta(minutes=minutes)).astimezone(ZoneInfo(ZONE))
        night = Night(
            kind="crontab",
            job_file=str(folder / "my job.yaml"),
            table=str(folder / "db" / "images"),
            when=daily(f"{there:%H:%M}", ZONE),
            address=None,
            image="",
            folder=str(folder),
            program=(str(program),),
            alert=f"echo $CLIPMILL_EXIT >>{shlex.quote(str(ended))}",
        )
        lines.append(text(files(night)))
    with cron(short, f"HOME={short}\n" + "".join(lines)):
        assert _until(lambda: ended.exists(), 200), "the second run did not come, or did not end"
        assert ended.read_text().split() == ["5"]
        second.touch()
        assert _until(lambda: len(ended.read_text().split()) == 2, 120)
    assert ended.read_text().split() == ["5", "3"]
    (log,) = (short / ".local/state/clipmill").glob("*.log")
    assert "starting workers" in log.read_text(), "the second run left the log of the first as it is"
    table = load_job(folder / "my job.yaml", overrides={"table": str(folder / "db" / "images")})
    assert len(help.rows(table, "id")) == 3
    assert len(list((short / ".local/state/clipmill").glob("*.lock"))) == 1


def _until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.5)
    return False
