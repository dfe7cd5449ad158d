"""Lines on stderr for programs: with `--log-format json` each is an object that says which run, unit, actor and node it
is about.

One setting for the process, because errors that end a command are told where nothing is known of its options.
"""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.secrets import masked

Format = Literal["text", "json"]
ABOUT = ("run", "unit", "actor", "node")

_format: Format = "text"
_run: str | None = None


def use(chosen: Format) -> None:
    """From now on, in this process; what the logging library is told too."""
    global _format, _run
    _format, _run = chosen, None
    for handler in logging.getLogger().handlers:
        if chosen == "json":
            handler.setFormatter(_Formatter())
        elif isinstance(handler.formatter, _Formatter):
            handler.setFormatter(None)


def about(run: str) -> None:
    """The run that lines are of from now on, to the end of the command."""
    global _run
    _run = run


def are_json() -> bool:
    return _format == "json"


def line(message: str, *, level: str = "info", **fields: Any) -> str:
    """One JSON object. Its keys begin with at, level, message, run, unit, actor, node: null where it is about none."""
    begin = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": masked(message)}
    whole = {**begin, **dict.fromkeys(ABOUT), "run": _run, **plain(fields)}
    text = {key: masked(value) if isinstance(value, str) else value for key, value in whole.items()}
    return json.dumps(text, allow_nan=False)  # ASCII: nothing in it can drive a terminal


def event(message: str, *, level: str = "info", **fields: Any) -> None:
    """What only programs want to know, such as each unit's end: nothing where lines are text."""
    if are_json():
        write(message, level=level, **fields)


def write(message: str, *, stream: TextIO | None = None, level: str = "info", **fields: Any) -> None:
    print(line(message, level=level, **fields), file=stream or sys.stderr, flush=True)


def told(text: str, stream: TextIO | None = None) -> None:
    """A sentence of `note`: `error:` in front of it is the line's level."""
    word, _, rest = text.partition(": ")
    level = "error" if word == "error" else "info"
    write(rest if level == "error" else text, level=level, stream=stream)


def stderr_of(logger: str) -> TextIO:
    """Where a library may print: stderr itself, or where lines are JSON a stream that makes one of each line."""
    return _Stream(logger) if are_json() else sys.stderr


def passed_on(logger: str) -> Callable[[str], None]:
    """Takes pieces of another clipmill's stderr, whose lines are JSON already; what libraries say among them is made
    into lines of `logger`."""
    stream, rest = _Stream(logger), ""

    def take(text: str) -> None:
        nonlocal rest
        *whole, rest = (rest + text).split("\n")
        for one in whole:
            found: Any = None
            with contextlib.suppress(ValueError):
                found = json.loads(one)
            if isinstance(found, dict):
                sys.stderr.write(json.dumps(found) + "\n")  # ASCII again, whoever wrote it
                sys.stderr.flush()
            else:
                stream.write(one + "\n")

    return take


class _Stream(io.TextIOBase, TextIO):
    def __init__(self, logger: str) -> None:
        super().__init__()
        self._logger, self._rest = logger, ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for one in filter(str.strip, whole):
            write(one, logger=self._logger)
        return len(text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return line(record.getMessage(), level=record.levelname.lower(), logger=record.name)
