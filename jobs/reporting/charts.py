"""Shapes for the page, worked out here so that templates only draw: heights in percent, SVG paths in a unit box.

Text stays HTML, which wraps and keeps its size on a phone; an SVG holds shapes alone and is stretched.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from clipmill.jobs.reporting.changes import Commit
from clipmill.jobs.reporting.contents import VectorMap
from clipmill.jobs.reporting.runs import RunFigures
from clipmill.schemas.text.words import counted

STAGES = ("read", "decode", "embed", "tag", "write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`height`: percent of the highest. `kind`: which of the page's colours."""

    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Of a box 100 × 100 that grows downwards. `area` closes the line at the bottom. `top`: the value at the upper
    edge. `limit`: height of a threshold, None for none."""

    path: str
    area: str
    least: float
    top: float
    limit: float | None = None


def run_bars(runs: Sequence[RunFigures]) -> list[Bar]:
    """Rates of the runs that read anything, in their order."""
    most = max((run.samples_per_s for run in runs), default=0) or 1
    return [
        Bar(
            height=max(1.0, 100 * run.samples_per_s / most),
            kind=run.limited_by if run.limited_by in STAGES else "none",
            title=f"{run.at[:16].replace('T', ' ')} · {run.samples_per_s:,.1f} samples/s"
            + (f", limited by {run.limited_by}" if run.limited_by else "")
            + f" · {counted(run.rows, 'row')}",
        )
        for run in runs
        if run.seen
    ]


def heights(counts: Sequence[int]) -> list[float]:
    most = max(counts, default=0) or 1
    return [100 * count / most for count in counts]


def line(values: Sequence[float], limit: float | None = None) -> Line | None:
    """Values at equal distances, from the least, with the threshold in sight; None for fewer than two."""
    if len(values) < 2:
        return None
    within = [*values, *([] if limit is None else [limit])]
    low, high = min(within), max(within)
    spread = (high - low) or abs(high) or 1.0
    low, high = low - 0.08 * spread, high + 0.08 * spread

    def y(value: float) -> float:
        return 100 * (high - value) / (high - low)

    points = [(100 * n / (len(values) - 1), y(value)) for n, value in enumerate(values)]
    return _line(points, min(values), max(values), None if limit is None else y(limit))


def progress(commits: Sequence[Commit]) -> Line | None:
    """Samples per second between commits, by the clock; None where fewer than three have a time."""
    timed = [(datetime.fromisoformat(c.at).timestamp(), c.samples) for c in commits if c.at is not None]
    if len(timed) < 3 or timed[-1][0] <= timed[0][0]:
        return None
    start, end = timed[0][0], timed[-1][0]
    rates = [
        (after, samples / (after - before))
        for (before, _), (after, samples) in itertools.pairwise(timed)
        if after > before
    ]
    top = 1.08 * max(rate for _, rate in rates)
    points: list[tuple[float, float]] = []
    left = start
    for at, rate in rates:  # steps: a rate holds from one commit to the next
        y = 100 - 100 * rate / top
        points += [(100 * (left - start) / (end - start), y), (100 * (at - start) / (end - start), y)]
        left = at
    return _line(points, 0.0, top / 1.08, None)


def _line(points: Sequence[tuple[float, float]], least: float, top: float, limit: float | None) -> Line:
    path = "M" + " L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    area = f"{path} L{points[-1][0]:.2f} 100 L{points[0][0]:.2f} 100 Z"
    return Line(path=path, area=area, least=least, top=top, limit=limit)


def map_paths(found: VectorMap) -> list[tuple[str, int, str]]:
    """(tag, rows, path) for each group: every point a line of no length, which round caps make a dot."""
    margin, inner = 20, 960
    return [
        (
            group.tag,
            len(group.points),
            "".join(f"M{margin + x * inner:.0f} {margin + (1 - y) * inner:.0f}h0" for x, y in group.points),
        )
        for group in found.groups
    ]
