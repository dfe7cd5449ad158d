"""`status --watch`: what is shown while a table grows, and how it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.terminal import watching
from tests import committed


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table's name; a unit of three rows comes between the first look and the second, and the third is Ctrl-C."""
    tables = committed.make_tables(tmp_path)
    lease = committed.take_lease(tables, "run")
    committer = Committer(tables, lease)
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) > 1:
            raise KeyboardInterrupt
        committer.commit([committed.entry("u1", "run", 3)], committed.fragments(tables, "u1", ["a", "b", "c"]))

    monkeypatch.setattr(watching, "_sleep", sleep)
    return f"{tmp_path}/db/images"


def test_a_pipe_gets_a_line_a_look_with_what_came(grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert clipmill(["status", grown, "--watch"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "  0 rows  0 units  0 rejects  " in first
    assert "/s)" not in first
    assert "  3 rows  1 unit  " in second
    assert "+3 rows (" in second
    assert second.split("/s), ")[1].startswith("+1 units  held by ")


def test_a_program_gets_a_document_a_look(grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert clipmill(["status", grown, "--watch", "--json", "--every", "1"]) == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["rows"] for look in looks] == [0, 3]


def test_a_table_that_is_not_there_is_a_mistake_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clipmill(["status", f"{tmp_path}/db/none", "--watch"]) == 2
    assert capsys.readouterr().out == ""


def test_a_table_that_is_being_made_is_waited_for(grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    there = Path(f"{grown}.lance")
    aside = there.rename(there.with_name("aside"))
    real = watching._sleep

    def sleep(seconds: float) -> None:
        if not there.exists():
            aside.rename(there)
        real(seconds)

    watching._sleep = sleep  # `grown` puts its own back
    assert clipmill(["status", grown, "--watch"]) == 0
    said = capsys.readouterr()
    assert "is not there yet: it is being made by `clipmill embed`" in said.err
    assert "  3 rows  1 unit  " in said.out


def test_a_look_that_fails_is_told_and_looked_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {"rows": 1, "units": 1, "rejects": {}, "version": 2, "held_by": None}
    answers = iter([found, OSError("the store does not answer"), {**found, "rows": 2}])
    slept: list[float] = []

    def read() -> dict[str, Any]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "_sleep", sleep)
    watching.watch(read, 2.0, as_json=False)
    said = capsys.readouterr()
    assert said.err.strip().endswith("the store does not answer")
    assert [line.split("  ")[1] for line in said.out.splitlines()] == ["1 row", "2 rows"]
    assert slept == [2.0] * 3


@pytest.mark.slow
def test_a_terminal_is_drawn_anew_and_ctrl_c_is_no_error(tmp_path: Path) -> None:
    committed.make_tables(tmp_path)
    ours, theirs = pty.openpty()
    words = [
        sys.executable,
        "-m",
        "clipmill.jobs.cli.main",
        "status",
        f"{tmp_path}/db/images",
        "--watch",
        "--every",
        "0.5",
    ]
    process = subprocess.Popen(words, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                seen.extend(part)
        except OSError:
            return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    until_s = time.monotonic() + 60
    while seen.count(b"\x1b[2J") < 2 and time.monotonic() < until_s:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    thread.join(10)
    os.close(ours)
    assert (process.returncode, err) == (0, b"")
    assert seen.count(b"\x1b[2J") >= 2
    assert b"Ctrl-C ends" in seen
