"""What a person sees while a job runs: on a terminal a bar, elsewhere a line now and then."""

import io

import pytest

from clipmill.jobs.terminal import progress as module
from clipmill.jobs.terminal.progress import Progress, Snapshot


class Clock:
    """time.monotonic under the test's control."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made)
    return made


def snapshot(**changes: object) -> Snapshot:
    values = {
        "units_done": 3,
        "units_total": 10,
        "samples": 3000,
        "samples_total": None,
        "rows": 2500,
        "rejects": 12,
        "failed": 0,
        "workers": 2,
        "limited_by": "decode",
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def test_without_a_terminal_a_line_every_half_minute(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(stream=out) as progress:
        progress.start_clock()
        for _ in range(100):
            clock.now_s += 1
            progress.show(snapshot())
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("3/10 units  2,500 rows")
    assert "\x1b" not in out.getvalue()


def test_a_line_says_rate_time_left_rejects_and_what_limits(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress(stream=out)
    progress.start_clock()
    clock.now_s += 30
    progress.show(snapshot(samples_total=12_000))
    assert out.getvalue() == (
        "3/10 units  2,500 rows  100 samples/s  1m30s left  12 rejects  limited by decode  2 workers\n"
    )


def test_time_left_is_by_units_where_nobody_knows_the_samples(clock: Clock) -> None:
    progress = Progress(stream=io.StringIO())
    progress.start_clock()
    clock.now_s += 3600
    assert "2h20m left" in progress._text(snapshot())
    assert "left" not in progress._text(snapshot(units_done=0, samples=0, rows=0))
    assert "0m00s left" in progress._text(snapshot(samples=5000, samples_total=4000))  # an estimate was too low


def test_the_time_before_the_workers_are_ready_does_not_count(clock: Clock) -> None:
    progress = Progress(stream=io.StringIO())
    clock.now_s += 600
    progress.start_clock()
    clock.now_s += 30
    assert "100 samples/s" in progress._text(snapshot())


def test_failed_units_are_said_only_where_there_are_any() -> None:
    progress = Progress(stream=io.StringIO())
    assert "failed" not in progress._text(snapshot())
    text = progress._text(snapshot(failed=2, workers=1, limited_by=""))
    assert "2 units failed" in text
    assert text.endswith("1 worker")


def test_at_the_very_start_nothing_is_divided_by_zero(clock: Clock) -> None:
    progress = Progress(stream=io.StringIO())
    progress.start_clock()
    text = progress._text(snapshot(units_done=0, samples=0, rows=0, rejects=0, limited_by=""))
    assert text == "0 rows  0 samples/s  0 rejects  2 workers"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_leaves_nothing_but_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal()
    with Progress(stream=out) as progress:
        progress.phase("listing")
        progress.start_clock()
        progress.show(snapshot())
        progress.say("a word [not markup] that stays")
    text = out.getvalue()
    assert "a word [not markup] that stays" in text
    assert "30%" in text
    assert "\x1b[?25h" in text, "the cursor is back"


def test_phases_are_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Progress(stream=out) as progress:
        progress.phase("listing s3://b/*.tar")
        progress.say("stopping after 2 units")
    assert out.getvalue() == "listing s3://b/*.tar\nstopping after 2 units\n"
