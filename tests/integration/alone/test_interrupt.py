"""Ctrl-C, which reaches Ray's processes too; and what a terminal shows meanwhile."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmill.jobs.cli.options import EXIT_INTERRUPTED
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import JobFile
from tests.integration.conftest import Cli, last_json, write_job
from tests.integration.help import job, problems, write_tar

UNITS, SAMPLES = 12, 5
SLOW = {"CLIPMILL_STUB_SLEEP_MS": "300"}


def slow_job(folder: Path) -> JobFile:
    for number in range(UNITS):
        write_tar(
            folder / "raw" / f"{number:02d}.tar", range(number * SAMPLES, (number + 1) * SAMPLES), bad=number == 1
        )
    source = {"format": "webdataset", "uri": f"{folder}/raw/*.tar", "caption": "txt"}
    return job(folder, source, commit={"every_s": 1}, workers={"num": 1, "cpus": 1})


def count(folder: Path) -> int:
    dataset = Tables.at(f"{folder}/db/images").open(missing_ok=True)
    return 0 if dataset is None else int(dataset.count_rows())


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", timeout_s: float = 400) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"it ended early, with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
def test_the_first_interrupt_drains_and_the_command_it_prints_finishes(cli: Cli) -> None:
    made = slow_job(cli.folder)
    file = write_job(cli.folder / "job.yaml", made)
    process = cli.start("embed", str(file), "--json", **SLOW)
    wait_for(lambda: count(cli.folder) > 0, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == EXIT_INTERRUPTED
    found = re.search(rf"^hint: to go on from there: (\S*clipmill embed {re.escape(str(file))})$", err, re.MULTILINE)
    assert found, err
    again = found[1]  # with the path to the command where a shell would not find it
    assert "Traceback" not in err
    first = last_json(out)
    assert first["interrupted"] is True
    assert first["resume"] == again
    assert 0 < first["units"] < UNITS
    assert first["seen"] == first["rows"] + sum(first["rejects"].values())
    assert count(cli.folder) == first["rows"]
    assert problems(made) == []

    rest = cli.run(*again.split()[1:], "--json")
    assert rest.returncode == 0, rest.stderr
    second = last_json(rest.stdout)
    assert (second["already_done"], second["units"]) == (first["units"], UNITS - first["units"])
    assert count(cli.folder) == UNITS * SAMPLES
    assert problems(made) == []


@pytest.mark.slow
@pytest.mark.ray
def test_the_second_interrupt_stops_at_once(cli: Cli) -> None:
    made = slow_job(cli.folder)
    file = write_job(cli.folder / "job.yaml", made)
    process = cli.start("embed", str(file), "--json", CLIPMILL_STUB_SLEEP_MS="90000")  # minutes a unit
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    wait_for(lambda: any("stub on cpu" in line for line in lines), process)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: any("once more stops at once" in line for line in lines), process)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=300) == EXIT_INTERRUPTED
    assert time.monotonic() - start < 120
    reader.join(timeout=10)
    text = "".join(lines)
    assert "Traceback" not in text
    assert "hint: run the same command again" in text
    assert problems(made) == []  # whatever was committed balances


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["starting workers", "stub on cpu", "rows"])
def test_sigterm_and_sighup_end_as_ctrl_c_does(cli: Cli, number: signal.Signals, moment: str) -> None:
    """As a scheduler's stop or a closed terminal: before Ray is up, while the model loads, and with units in flight."""
    made = slow_job(cli.folder)
    file = write_job(cli.folder / "job.yaml", made)
    process = cli.start("embed", str(file), "--json", **SLOW)
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    wait_for(
        lambda: count(cli.folder) > 0 if moment == "rows" else any(moment in line for line in lines),
        process,
    )
    process.send_signal(number)
    assert process.wait(timeout=300) == EXIT_INTERRUPTED
    reader.join(timeout=10)
    text = "".join(lines)
    assert "Traceback" not in text
    assert "error: interrupted" in text
    if moment == "rows":
        assert 0 < count(cli.folder) < UNITS * SAMPLES
        assert problems(made) == []


def on_terminal(command: list[str], folder: Path, columns: int, env: dict[str, str]) -> tuple[int, str, str]:
    """(exit code, stdout, what the terminal of stderr was sent)."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TERM": "xterm", **env},
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # EIO: the other side is closed
                return
            shown.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    out, _ = process.communicate(timeout=400)
    reader.join(timeout=10)
    os.close(leader)
    return process.returncode, out, shown.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.ray
def test_eighty_columns_have_room_for_everything(cli: Cli) -> None:
    file = write_job(cli.folder / "job.yaml", slow_job(cli.folder))
    code, out, shown = on_terminal(cli.command("embed", str(file), "--json"), cli.folder, 80, SLOW)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", shown)]
    assert code == 0, "\n".join(lines[-100:])  # the end of what a person saw; before it are pictures of a bar
    assert last_json(out)["rows"] == UNITS * SAMPLES
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"━ +[1-9]\d*% \d:\d\d:\d\d", line) for line in lines), lines[-5:]
    text = " ".join(lines)
    assert re.search(r"[\d,]+ rows +[\d,]+ samples/s +\d+m\d\ds left +1 reject +limited by \w+ +1 worker\b", text)
    assert "…" not in text
    assert "Traceback" not in text
