"""Lines of stderr as JSON."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.output import note
from clipmill.jobs.terminal.progress import Progress


@pytest.fixture(autouse=True)
def text_again() -> Iterator[None]:
    yield
    lines.use("text")


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_four_things_it_is_about_and_no_secret() -> None:
    lines.use("json")
    lines.about("20261128T000000-abcdef")
    stream = io.StringIO()
    note("error: cannot read s3://user:hunter2secret@lake/a\x1b[31m", stream=stream)
    lines.write("unit done", stream=stream, unit="u", actor="a", node="n", seen=3, uri="https://x:hunter2secret@h/b")
    error, unit = written(stream)
    assert list(error)[:7] == ["at", "level", "message", "run", "unit", "actor", "node"]
    assert (error["level"], error["run"], error["unit"]) == ("error", "20261128T000000-abcdef", None)
    assert (unit["unit"], unit["actor"], unit["node"], unit["seen"]) == ("u", "a", "n", 3)
    assert "hunter2secret" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "nothing that drives a terminal"


def test_a_sentence_of_several_lines_is_one_line() -> None:
    lines.use("json")
    stream = io.StringIO()
    Progress(stream=stream).say("first\nsecond")
    (line,) = written(stream)
    assert line["message"] == "first\nsecond"


def test_the_log_of_another_clipmill_is_passed_on_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What comes among its lines is made one: Ray's own words of a job, whatever its pieces."""
    lines.use("json")
    take = lines.passed_on("ray")
    for piece in ('{"message": "a", "un', 'it": "u"}\nRuntime env is', ' setting up.\n\n{"message": "\u202eb"}\n7\n'):
        take(piece)
    said = capsys.readouterr().err
    assert said.isascii()
    found = [json.loads(line) for line in said.splitlines()]
    assert [one["message"] for one in found] == ["a", "Runtime env is setting up.", "\u202eb", "7"]
    assert (found[0]["unit"], found[1]["logger"]) == ("u", "ray")


def test_events_are_for_programs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines.event("unit done", unit="u")
    assert capsys.readouterr().err == ""
    lines.use("json")
    lines.event("unit done", unit="u")
    assert json.loads(capsys.readouterr().err)["unit"] == "u"


@pytest.mark.parametrize("how", ["option", "variable"])
def test_mistakes_are_told_in_the_format_that_was_asked_for(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["embed", "nowhere.yaml"]
    if how == "option":
        words += ["--log-format", "json"]
    else:
        monkeypatch.setenv("CLIPMILL_LOG_FORMAT", "json")
    assert clipmill(words) == 2
    error, hint = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (error["level"], hint["level"]) == ("error", "info")
    assert "nowhere.yaml" in error["message"]
    assert hint["message"].startswith("hint: ")
    monkeypatch.delenv("CLIPMILL_LOG_FORMAT", raising=False)
    assert clipmill(words[:2]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_what_libraries_log_is_json_too() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        lines.use("json")
        logging.getLogger("some.library").warning("a %s", "word")
        lines.use("text")
        logging.getLogger("some.library").warning("another")
    finally:
        root.removeHandler(handler)
    first, second = stream.getvalue().splitlines()
    assert {"logger": "some.library", "level": "warning", "message": "a word"}.items() <= json.loads(first).items()
    assert second == "another"


def test_what_ray_prints_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines.stderr_of("ray") is sys.stderr
    lines.use("json")
    with contextlib.redirect_stdout(lines.stderr_of("ray")):
        print("(raylet) a worker", "died")
        print("half", end="")
        print(" a line", flush=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert [(one["message"], one["logger"]) for one in map(json.loads, said.err.splitlines())] == [
        ("(raylet) a worker died", "ray"),
        ("half a line", "ray"),
    ]
