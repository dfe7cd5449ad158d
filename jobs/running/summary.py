"""What a run did, in numbers that add up, and what limited its rate."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.running.actors.attempts import Failed
from clipmill.jobs.table.sets import missing_in_words
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.left_out import hint_for, to_text
from clipmill.schemas.unit.receipts import Receipt


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The closing word of a run. `seen == rows + sum(rejects.values())`; `rows` and `rejects` are of this run. `unread`
    counts by column the values that could not be read and are null for that; `unread_first` tells the first of each.

    `left_out`: what the source holds and no reader takes, by ending, within this run's units and in the listing;
    `left_out_listed` is the listing's share. `filled`: how many of the `rows` have a caption, tags and each kept column
    that the job asks for.
    """

    run: str
    table: str
    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    unread_first: dict[str, str] = field(default_factory=dict)
    failed_units: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_listed: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    already_done: int = 0
    aliases: int = 0
    replaced_units: int = 0
    moved_units: int = 0  # whose rows followed them to a new place
    moved_rows: int = 0  # beside those: of rows, each of which followed its sample into another unit
    healed_units: int = 0
    seconds: float = 0.0
    startup_s: float = 0.0
    samples_per_s: float = 0.0
    limited_by: str = ""
    loads: dict[str, float] = field(default_factory=dict)  # share of the working time each stage was busy
    commits: int = 0
    first_rows_s: float | None = None
    table_version: int = 0
    sets: list[dict[str, Any]] = field(default_factory=list)  # beside the one in use, as they are after the run
    columns: list[dict[str, Any]] = field(default_factory=list)  # scores of sets, tags beside, that rows had not
    live: int | None = None  # the version that readers see, where one is published
    live_rows: int | None = None
    workers: int = 0  # the most that worked at once
    worker_s: float = 0.0  # seconds of all of them, ready for units, added up
    device: str = ""
    estimated_samples_per_s: float | None = None  # of all workers together, before the run
    estimate_basis: str = ""
    source_bytes: int = 0
    worker_restarts: int = 0
    attempts_failed: int = 0  # that counted against limits.max_attempts
    attempts_lost: int = 0  # units that came back because a node was lost or left: no attempts
    peak_worker_bytes: int = 0
    driver_peak_bytes: int = 0
    drained: bool = False  # a signal asked it to stop; `interrupted` where that left units
    interrupted: bool = False
    resume: str = ""
    note: str = ""


def describe(s: Summary) -> str:
    """The summary for a person; its first line adds up."""
    left = [f"left out: {to_text(s.left_out)}"] if s.left_out else []
    left += [f"to read them: {hint}"] if (hint := hint_for(s.left_out)) else []
    if not s.run:
        return "\n".join(
            [f"{s.note}; table {s.table}, version {s.table_version}", *left, *sets_in_words(s.sets, s.columns)]
        )
    rejected = sum(s.rejects.values())
    reasons = f" ({', '.join(f'{reason} {n:,}' for reason, n in s.rejects.items())})" if s.rejects else ""
    lines = [f"{counted(s.seen, 'sample')} = {counted(s.rows, 'row')} + {counted(rejected, 'reject')}{reasons}"]
    for column, count in s.unread.items():
        first = f"; the first: {s.unread_first[column]}" if column in s.unread_first else ""
        what = f"{count:,} values of {column}" if count > 1 else f"1 value of {column}"
        lines.append(f"{what} could not be read and {'are' if count > 1 else 'is'} null{first}")
    lines += [*left, *_filled(s)]
    units = f"{counted(s.units, 'unit')} in {counted(s.commits, 'commit')}"
    for count, what in (
        (s.already_done, "were in the table already"),
        (s.replaced_units, "replaced"),
        (s.moved_units, "moved, and their rows with them"),
        (s.moved_rows, "rows moved from units whose place is gone"),
        (s.aliases, "unchanged under a new etag"),
        (s.healed_units, "entered that an earlier run had left"),
        (len(s.failed_units), "failed"),
    ):
        units += f", {count:,} {what}" if count else ""
    lines.append(units)
    speed = f"{s.samples_per_s:,.1f} samples/s on {counted(s.workers, 'worker')}"
    speed += f", limited by {s.limited_by}" if s.limited_by else ""
    first = f", first rows after {s.first_rows_s:.1f} s" if s.first_rows_s is not None else ""
    lines.append(f"{speed}; {s.seconds:.1f} s in all, {s.startup_s:.1f} s of them to start{first}")
    if s.estimated_samples_per_s:
        share = s.samples_per_s / s.estimated_samples_per_s
        lines.append(
            f"estimated {s.estimated_samples_per_s:,.1f} samples/s, reached {share:.2f} of it ({s.estimate_basis})"
        )
    lines += sets_in_words(s.sets, s.columns)
    lines.append(f"table {s.table}, version {s.table_version}, run {s.run}")
    if s.note:
        lines.append(s.note)
    return "\n".join(lines)


def sets_in_words(sets: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each set beside the one in use, as `migrating.beside` tells of it, and for each column of scores or
    tags beside that rows lacked. What could not be filled is told apart from what is not done yet."""
    found = []
    for one in sets:
        missing = missing_in_words(one["failed"], one.get("rejects", {}), one["left"])
        why = f": {one['note']}" if one["left"] and one["note"] else ""
        of = f"{one['filled']:,} of {counted(one['rows'], 'row')} filled ({one['new']:,} now)"
        found.append(f"set '{one['set']}' of {one['model']}: {of}" + (f"; {missing}{why}" if missing else ""))
    for one in columns:
        left = f", {one['left']:,} left: {one['note']}" if one["left"] else ""
        found.append(f"{one['column']}: {counted(one['new'], 'row')} got a value{left}")
    return found


def _filled(s: Summary) -> list[str]:
    """What matched, and what matched nothing."""
    if not s.rows:
        if s.seen:
            rejected, them = ("the 1 sample was", "it") if s.seen == 1 else (f"all {s.seen:,} samples were", "them")
            return [f"no row was added: {rejected} rejected; `clipmill rejects {s.table}` names {them}"]
        return [f"no sample was found in {counted(s.units, 'unit')}"] if s.units > s.aliases else []
    shown = {"caption": "captions", "tags": "tags"}
    of = counted(s.rows, "row")
    lines = [f"{shown[name]} in {s.filled[name]:,} of {of}" for name in shown if name in s.filled]
    found = ["; ".join(lines)] if lines else []
    nothing = [name for name, number in s.filled.items() if not number and name != "tags"]
    if nothing:
        found.append(
            f"nothing was found for {', '.join(nothing)}: null in {'the' if s.rows == 1 else 'all'} {of}; "
            "are the names in source.caption and source.keep the source's own?"
        )
    return found


class StageClock:
    """Adds up what the stages of all units were busy with, for the progress line and the summary.

    A stage's load is its busy time over the time it could have been busy: `worker_s`, the seconds of all actors added
    up, times its `lanes` in one. The model runs one batch at a time for each caller, decoding has its threads, reading
    and writing one thread per unit in flight.
    """

    def __init__(self, threads: int, units_in_flight: int, *, callers: int = 1) -> None:
        """Of one actor. `callers`: threads that use its model at once, as its engine says."""
        self.lanes = {
            "read": units_in_flight,
            "decode": threads,
            "embed": callers,
            "tag": units_in_flight,
            "write": units_in_flight,
        }
        self.busy_s: dict[str, float] = defaultdict(float)
        self.peak_rss_bytes = 0

    def add(self, receipt: Receipt) -> None:
        for stage, seconds in receipt.seconds.items():
            self.busy_s[stage] += seconds
        self.peak_rss_bytes = max(self.peak_rss_bytes, receipt.peak_rss_bytes)

    def loads(self, worker_s: float) -> dict[str, float]:
        """Share of that time each stage was busy, 0 to about 1."""
        return {stage: self.busy_s[stage] / (lanes * worker_s) for stage, lanes in self.lanes.items() if worker_s > 0}

    def limited_by(self, worker_s: float) -> str:
        loads = self.loads(worker_s)
        return max(loads, key=lambda stage: loads[stage]) if any(loads.values()) else ""


def rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0


def failed_units(failed: Iterable[Failed]) -> list[dict[str, str]]:
    """One entry per unit given up on: its id, where it comes from, and why."""
    return [
        {
            "unit_id": f.unit.unit_id,
            "uri": f.unit.uri + (f" [{f.unit.start}, {f.unit.end}]" if f.unit.end else ""),
            "reason": f.reason,
        }
        for f in failed
    ]
