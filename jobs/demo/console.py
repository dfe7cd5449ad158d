"""What the demo says while it works: numbered steps, bars where there is a terminal, commands to copy. On stderr."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from clipmill.jobs.terminal.output import note


class Console:
    """`stdout` takes what the commands would print; with `quiet` that is left out, so that --json stays JSON."""

    def __init__(self, num_steps: int, *, quiet: bool = False) -> None:
        self.num_steps, self.quiet = num_steps, quiet
        self._step = 0

    def step(self, text: str) -> None:
        self._step += 1
        note(f"\n{self._step}/{self.num_steps}  {text}")

    def say(self, text: str) -> None:
        note(f"     {text}")

    def command(self, line: str) -> None:
        """The command line that does what comes next."""
        note(f"     $ {line}")

    def data(self, line: str) -> None:
        if not self.quiet:
            sys.stdout.write(f"     {line}\n")
            sys.stdout.flush()

    def bar(self, ticks: Iterable[tuple[int, int]], unit: str) -> None:
        """Run through `ticks` of (done, in all): a bar on a terminal, else a line at every quarter."""
        if sys.stderr.isatty():
            self._live_bar(ticks, unit)
            return
        said = time.monotonic()
        for done, total in ticks:
            if time.monotonic() - said > 5.0 or done == total:
                said = time.monotonic()
                self.say(f"{done}/{total} {unit}")

    @staticmethod
    def _live_bar(ticks: Iterable[tuple[int, int]], unit: str) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns: list[Any] = [TextColumn("    "), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(unit)]
        with Progress(*columns, TimeElapsedColumn(), console=Terminal(file=sys.stderr), transient=True) as progress:
            task = progress.add_task(unit, total=None)
            for done, total in ticks:
                progress.update(task, completed=done, total=total)
