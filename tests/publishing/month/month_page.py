"""What the nights of `make month` took, kept as JSON, and the page of it: `python -m tests.publishing.month.month_page
RESULTS PAGE.md`."""

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clipmill.jobs.publishing.night import Night
from tests.publishing.month.program import SAME_WORK
from tests.publishing.month.shards import SOURCES

GROWTH = 1.2  # what the last nights may take more than the first, of equal work
LAST = max(SAME_WORK[1])
FIGURES = ("time", "files", "bytes", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One night. `seconds`: of the whole evening, killed drivers and all; `fresh_s`: of a table built from scratch
    right after it, the yardstick on a machine that has other work too. `looks`: of readers in that time. `files`,
    `bytes`, `versions`: of the table and those beside it, as they lay in the bucket after it; `log_bytes`: of the run
    log."""

    night: int
    what: str
    status: str
    seconds: float
    fresh_s: float
    rows: int
    came: int
    changed: int
    aliased: int
    moved: int
    gone: int
    rejects: int
    looks: int
    versions: int
    rows_versions: int
    files: int
    bytes: int
    log_bytes: int

    @staticmethod
    def of(night: int, what: str, found: Night, took_s: tuple[float, float], size: dict[str, int]) -> "Row":
        return Row(
            night=night,
            what=what,
            status=found.status,
            seconds=round(took_s[0], 2),
            fresh_s=round(took_s[1], 2),
            rows=found.rows_after,
            came=found.came,
            changed=found.changed,
            aliased=found.aliased,
            moved=found.moved,
            gone=found.gone,
            rejects=sum(found.rejects.values()),
            **size,
        )

    @property
    def time(self) -> float:
        return self.seconds / self.fresh_s


@dataclass(slots=True)
class Kept:
    """Of one source: its nights so far, their store, whether all was right to the end, and when it was written."""

    store: str
    rows: list[Row] = field(default_factory=list)
    passed: bool = False
    when: datetime = datetime.min

    def write(self, folder: str, kind: str) -> None:
        """After every night, so that a month that fails shows where; and at the end, when readers have been asked."""
        if folder:
            Path(folder).mkdir(exist_ok=True)
            values = {"store": self.store, "passed": self.passed, "rows": [asdict(row) for row in self.rows]}
            (Path(folder) / f"{kind}.json").write_text(json.dumps(values))


def read(folder: str) -> dict[str, Kept]:
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        values = json.loads(path.read_text())
        rows = [Row(**row) for row in values.pop("rows")]
        found[path.stem] = Kept(**values, rows=rows, when=datetime.fromtimestamp(path.stat().st_mtime, UTC))
    return found


def growth(rows: list[Row]) -> dict[str, float]:
    """The last nights ÷ the first, medians of five nights of equal work each; `time` is that of a night ÷ that of the
    table from scratch right after it, so that what else the machine does falls out."""
    early, late = ([row for row in rows if row.night in nights] for nights in SAME_WORK)

    def middle(of: list[Row], name: str) -> float:
        return float(statistics.median(getattr(row, name) for row in of))

    return {name: middle(late, name) / middle(early, name) for name in FIGURES}


HEAD = """# A month of nights: the last run

{when} UTC, {cores} cores, {machine}, Python {python}, {versions}; the bucket on {store}. Made by `make month`.

{outcome}

A source of eleven shards of twelve pictures changes every day: one shard comes, one is replaced, one is uploaded
again unchanged, one is renamed, one is deleted, on some days one is cut short; so the nights have equal work. The model
is the stand-in of the tests, of 16 numbers a vector, and from the 24th night on another of 17. After every night the
table is compared with one built from scratch from the same source (ids, hashes, captions, tags, vectors to 1e-3),
`clipmill verify` has no complaint, and another call of the night commits nothing. The table over tars has an index of
its vectors (HNSW, made by hand), which has every row after each night and is judged by the gate `recall`; the second
model's set gets one like it. A reader opens what is published, reads all of it and asks for neighbours, again and
again, the whole month: no error, no id twice, no version that was not published, no vector of another model than the
version says.

What is not the real thing: a night counts as a day for what removes old versions and files (`keep_versions_d: 1`); the
clock that is an hour ahead is the one that clipmill's own code reads, because S3 refuses requests that are signed by
such a clock; a throttled request is answered by a proxy before the store, with 503 SlowDown, a quarter of all and none
more than twice in a row.
"""
GROWN = """
## The last nights beside the first

Of nights with equal work and without trouble: the median of nights {late}, divided by that of nights
{early}. Time is that of the night beside that of the table built from scratch right after it, which is equal work
every night: a machine that is slow all month falls out, other work that comes or goes meanwhile only in part. The run
fails where one is above {most}.

| source | time | files | bytes | versions |
|---|---|---|---|---|
"""
TABLE = """
## {kind}

Ended on {when:%Y-%m-%d at %H:%M} UTC.

`seconds`: the whole evening, killed drivers and changes by hand among it. `versions`, `files` and `kB`: of the table
and those beside it, as they lie in the bucket after the night; in brackets versions of the rows alone; `log`: kB of the
run log, which is not among the others.

| night | what | status | seconds | scratch | rows | new, changed, alias, moved, gone| reads | versions | files |kB|log|
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main(folder: str, page: str) -> None:
    kept = read(folder)
    text = HEAD.format(
        when=f"{max(one.when for one in kept.values()):%Y-%m-%d %H:%M}",
        cores=os.cpu_count(),
        machine=platform.machine(),
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in ("ray", "pylance", "lancedb")),
        store=" and ".join(sorted({one.store for one in kept.values()})),
        outcome=_outcome(kept),
    )
    text += GROWN.format(late=", ".join(map(str, SAME_WORK[1])), early=", ".join(map(str, SAME_WORK[0])), most=GROWTH)
    for kind, one in kept.items():
        if one.rows[-1].night >= LAST:
            grown = growth(one.rows)
            numbers = " | ".join(f"{grown[name]:.2f}" for name in FIGURES)
            text += f"| {kind} | {numbers} |\n"
    for kind, one in kept.items():
        text += TABLE.format(kind=kind, when=one.when) + "".join(_line(row) for row in one.rows)
    Path(page).write_text(text)


def _outcome(kept: dict[str, Kept]) -> str:
    failed = [f"{kind}: {_end(kept.get(kind))}" for kind in SOURCES if kind not in kept or not kept[kind].passed]
    if not failed:
        return "All nights passed, of all three kinds of sources."
    passed = [kind for kind in kept if kept[kind].passed]
    return f"**Not passed: {'; '.join(failed)}.**" + (f" Passed: {', '.join(passed)}." if passed else "")


def _end(found: Kept | None) -> str:
    """A night is written once it was compared, so whoever has the last of them failed at what is asked at the end."""
    if found is None:
        return "no night ended"
    if found.rows[-1].night < LAST:
        return f"ended after night {found.rows[-1].night}"
    over = [f"{name} {value:.2f}" for name, value in growth(found.rows).items() if value > GROWTH]
    why = f"{', '.join(over)} (at most {GROWTH})" if over else "what readers saw was not"
    return f"every night was right, {why}"


def _line(row: Row) -> str:
    units = f"{row.came}, {row.changed}, {row.aliased}, {row.moved}, {row.gone}"
    size = f"{row.versions} ({row.rows_versions}) | {row.files} | {row.bytes // 1000} | {row.log_bytes // 1000}"
    said = f"| {row.night} | {row.what} | {row.status} | {row.seconds:.1f} | {row.fresh_s:.1f} | {row.rows} "
    return f"{said}| {units} | {row.looks} | {size} |\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
