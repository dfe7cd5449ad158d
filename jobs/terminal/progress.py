"""Progress on stderr: a bar with figures below it on a terminal, else a line every 30 seconds, as text or as JSON."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.output import printable
from clipmill.schemas.text.words import counted

LINE_EVERY_S = 30.0


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """What the bar shows. `samples` counts rows and rejects of finished units, `rows` what readers can see."""

    units_done: int
    units_total: int
    samples: int
    samples_total: int | None
    rows: int
    rejects: int
    failed: int
    workers: int
    limited_by: str


class Progress:
    """A context manager; `show` is cheap and may be called as often as one likes."""

    def __init__(self, *, stream: Any = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.is_terminal = bool(getattr(self.stream, "isatty", lambda: False)()) and not lines.are_json()
        self._started = time.monotonic()
        self._last_line = time.monotonic()
        self._live: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._figures: Any = None

    def __enter__(self) -> "Progress":
        if self.is_terminal:
            self._show_bar()
        return self

    def _show_bar(self) -> None:
        """The figures have lines of their own: beside the bar, 80 columns have no room for them."""
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        console = Console(file=self.stream)
        percent = TextColumn("{task.percentage:3.0f}%")
        self._bar = Bar(SpinnerColumn(), BarColumn(bar_width=40), percent, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task("embed", total=None)
        self._figures = Text("starting")
        self._live = Live(Group(self._bar, self._figures), console=console, transient=True, refresh_per_second=10)
        self._live.start()

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        text = printable(text)
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def phase(self, text: str) -> None:
        """What is being done before the first unit: a line, or the text below the bar."""
        text = printable(text)
        if self._live is not None:
            self._figures.plain = text
        else:
            self._line(text)

    def _line(self, text: str, **fields: Any) -> None:
        """As text, or as a JSON object with these fields beside it."""
        if lines.are_json():
            lines.write(text, stream=self.stream, **fields)
        else:
            print(text, file=self.stream, flush=True)

    def start_clock(self) -> None:
        """From here on the rate counts: the workers are ready."""
        self._started = self._last_line = time.monotonic()

    def show(self, now: Snapshot) -> None:
        text = self._text(now)
        if self._live is not None:
            self._bar.update(self._task, total=now.units_total, completed=now.units_done)
            self._figures.plain = text
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._line(f"{now.units_done}/{counted(now.units_total, 'unit')}  {text}", **asdict(now))

    def _text(self, now: Snapshot) -> str:
        elapsed_s = time.monotonic() - self._started
        rate = now.samples / elapsed_s if elapsed_s > 0 else 0.0
        parts = [counted(now.rows, "row"), f"{rate:,.0f} samples/s"]
        left_s = self._left_s(now, elapsed_s, rate)
        if left_s is not None:
            parts.append(f"{_duration(left_s)} left")
        parts.append(counted(now.rejects, "reject"))
        if now.failed:
            parts.append(f"{counted(now.failed, 'unit')} failed")
        if now.limited_by:
            parts.append(f"limited by {now.limited_by}")
        parts.append(counted(now.workers, "worker"))
        return "  ".join(parts)

    def _left_s(self, now: Snapshot, elapsed_s: float, rate: float) -> float | None:
        if now.samples_total and rate > 0:
            return max(0.0, (now.samples_total - now.samples) / rate)
        if now.units_done:
            return elapsed_s * (now.units_total - now.units_done) / now.units_done
        return None


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s"
