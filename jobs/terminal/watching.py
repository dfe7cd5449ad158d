"""Looking at one thing again and again: on a terminal it is drawn anew, elsewhere it is a line a look."""

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from clipmill.jobs.terminal.output import cell, note, print_json, print_record
from clipmill.schemas.errors import BeingMade, ClipmillError
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.words import counted

_ANEW = "\x1b[H\x1b[2J"  # the cursor to the top, and the screen empty
_sleep = time.sleep


def watch(read: Callable[[], Any], every_s: float, *, as_json: bool) -> None:
    """Until Ctrl-C, which is how it ends and no error. The first look may raise, unless the table is being made; a
    later one that fails is told, and looked again: a store that does not answer for a moment is no reason to stop."""
    before: dict[str, Any] | None = None
    looked_s = time.monotonic()
    try:
        while True:
            try:
                now = plain(read())
            except (ClipmillError, OSError) as error:
                if before is None and not isinstance(error, BeingMade):
                    raise
                note(f"{_clock()}  {error}")
            else:
                now_s = time.monotonic()
                _show(now, changes(before, now, now_s - looked_s), as_json)
                before, looked_s = now, now_s
            _sleep(every_s)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            sys.stdout.write("\n")


def changes(before: dict[str, Any] | None, now: dict[str, Any], seconds: float) -> str:
    """What came since the last look, and how fast; empty where nothing did."""
    if before is None or seconds <= 0:
        return ""
    more = int(now["rows"]) - int(before["rows"])
    units = int(now["units"]) - int(before["units"])
    if not more and not units:
        return ""
    return f"{more:+,} rows ({more / seconds:,.0f}/s), {units:+,} units"


def _show(now: dict[str, Any], more: str, as_json: bool) -> None:
    if as_json:
        print_json(now)
    elif sys.stdout.isatty():
        sys.stdout.write(_ANEW)
        print_record(now, as_json=False)
        sys.stdout.write(f"\n{_clock()}  {more or 'no change since the last look'}; Ctrl-C ends\n")
        sys.stdout.flush()
    else:
        rejected = sum(now["rejects"].values())
        held = f"  held by {cell(now['held_by'], 200)}" if now["held_by"] else ""
        rows, units, rejects = counted(now["rows"], "row"), counted(now["units"], "unit"), counted(rejected, "reject")
        line = f"{_clock()}  {rows}  {units}  {rejects}  version {now['version']}"
        sys.stdout.write(f"{line}{'  ' + more if more else ''}{held}\n")
        sys.stdout.flush()


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S")
