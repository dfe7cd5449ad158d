"""Printing: data to stdout, for a person or as JSON for a program; words about it to stderr."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipmill.jobs.terminal import lines
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.secrets import masked

_MAX_CELL = 60
_MAX_LINE = 2000


def print_json(value: Any) -> None:
    """One JSON document on one line, with what could drive a terminal as JSON's own escapes: the value is the same."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    sys.stdout.write(text.translate({ord(char): json.dumps(char)[1:-1] for char in set(text) if _drives(char)}) + "\n")
    sys.stdout.flush()


def print_record(record: Any, *, as_json: bool) -> None:
    """One thing: a JSON object, or a line per field with the nested ones indented."""
    value = plain(record)
    if as_json:
        print_json(value)
    else:
        _write_fields(value, "")
        sys.stdout.flush()


def print_words(record: Any, words: Callable[[Any], str], *, as_json: bool) -> None:
    """One thing: a JSON object with all of it, or the few lines about it that a person wants."""
    if as_json:
        print_json(record)
    else:
        sys.stdout.write(printable(words(record)) + "\n")
        sys.stdout.flush()


def print_rows(rows: Any, *, as_json: bool, columns: Sequence[str] | None = None, empty: str = "nothing found") -> None:
    """Many things: a JSON array of objects, or a table of `columns` (default: those of the first row)."""
    values: list[dict[str, Any]] = plain(rows)
    if as_json:
        print_json(values)
        return
    if not values:
        if empty:
            note(empty)
        return
    names = list(columns or values[0])
    # The last column may be as long as it is, so that an id can be copied.
    limits = [_MAX_CELL] * (len(names) - 1) + [_MAX_LINE]
    table = [names] + [
        [cell(row.get(name), limit) for name, limit in zip(names, limits, strict=True)] for row in values
    ]
    widths = [max(_width(line[i]) for line in table) for i in range(len(names))]
    for line in table:
        padded = (text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """`text` with what could drive a terminal or turn its line around written as an escape, `\\x1b`. Names of objects,
    columns and files are strangers' text, and stand in errors. Line feeds stay; so do joiners inside words."""
    return "".join(char if char in "\n\u200c\u200d" or not _drives(char) else _escaped(char) for char in text)


def _drives(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode() if char != "\t" else " "


def note(text: str, *, stream: TextIO | None = None) -> None:
    """A sentence for the person at the terminal, on stderr, so that it never mixes with data; credentials masked."""
    if lines.are_json():
        lines.told(text, stream)
    else:
        (stream or sys.stderr).write(printable(masked(text)) + "\n")


def cell(value: Any, max_chars: int = _MAX_CELL) -> str:
    """A value on one line of at most `max_chars`. Captions are strangers' text: control characters, which could
    drive the terminal, are shown as spaces."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        value = ", ".join(cell(item, max_chars) for item in value)
    elif isinstance(value, dict):
        value = ", ".join(f"{key}={cell(item, max_chars)}" for key, item in value.items())
    text = "".join(" " if _drives(char) else char for char in str(value))
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def _width(text: str) -> int:
    """Terminal columns: East Asian wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _write_fields(value: Mapping[str, Any], indent: str) -> None:
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            sys.stdout.write(f"{indent}{key}\n")
            _write_fields(item, indent + "  ")
        elif isinstance(item, list) and (len(item) > 4 or any(isinstance(entry, Mapping | str) for entry in item)):
            sys.stdout.write(f"{indent}{key}\n" + "".join(f"{indent}  {cell(entry, _MAX_LINE)}\n" for entry in item))
        else:
            # What an option takes is shown as it takes it, without separators.
            taken = isinstance(item, int) and key.endswith(("version", "seed"))
            sys.stdout.write(f"{indent}{key:<{width}}  {item if taken else cell(item, _MAX_LINE)}\n")


def program() -> str:
    """How this program was called, so that the commands it prints can be copied: `clipmill`, or a path to it."""
    called = Path(sys.argv[0])
    if called.stem != "clipmill":  # a test, or python -m
        return "clipmill"
    found = shutil.which("clipmill")
    if found and Path(found).resolve() == called.resolve():
        return "clipmill"
    return shown(called.absolute())


def shown(path: Path) -> str:
    """A path as a person at this terminal would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
