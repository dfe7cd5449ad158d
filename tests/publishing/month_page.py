"""What the nights of `make month` took, kept as JSON, and the page of it: `python -m tests.publishing.month_page
RESULTS PAGE.md`."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clipmill.jobs.publishing.night import Night


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


FIGURES = ("time", "files", "bytes", "versions")


def write_rows(folder: str, kind: str, rows: list[Row]) -> None:
    """After every night, so that a month that fails shows where."""
    if folder:
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / f"{kind}.json").write_text(json.dumps([asdict(row) for row in rows]))


def write_passed(folder: str, kind: str) -> None:
    """At the end, when readers have been asked too."""
    if folder:
        (Path(folder) / f"{kind}.passed").touch()


def read_rows(folder: str) -> dict[str, list[Row]]:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}
    return {kind: [Row(**row) for row in rows] for kind, rows in found.items()}


HEAD = """# A month of nights: the last run

{when} UTC, {cores} cores, {machine}, Python {python}, {versions}; the bucket on {store}. Made by `make month`.

{outcome}

A source of eleven shards of twelve pictures changes every day: one shard comes, one is replaced, one is uploaded
again unchanged, one is renamed, one is deleted, on some days one is cut short; so the nights have equal work. The model
is the stand-in of the tests. After every night the table is compared with one built from scratch from the same source
(ids, hashes, captions, tags, vectors to 1e-3), `clipmill verify` has no complaint, and another call of the night
commits nothing. A reader opens what is published and reads all of it, again and again, the whole month: no error, no
id twice, no version that was not published, no vector of another model than the version says.

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

`seconds`: the whole evening, killed drivers and changes by hand among it. `versions`, `files` and `kB`: of the table
and those beside it, as they lie in the bucket after the night; in brackets versions of the rows alone; `log`: kB of the
run log, which is not among the others.

| night | what | status | seconds | scratch | rows | new, changed, alias, moved, gone| reads | versions | files |kB|log|
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main(folder: str, page: str) -> None:
    from tests.publishing.program import SAME_WORK
    from tests.publishing.shards import SOURCES
    from tests.publishing.test_seven_nights import GROWTH, growth

    rows, last = read_rows(folder), max(SAME_WORK[1])
    short = [kind for kind, of in rows.items() if of[-1].night < last]
    failed = [kind for kind in SOURCES if not (Path(folder) / f"{kind}.passed").exists()]
    ended = [f"{kind} ({_end(rows.get(kind, []))})" for kind in failed]
    outcome = f"**Not passed: {', '.join(ended)}.**" if failed else "All nights passed, of all three kinds of sources."
    text = HEAD.format(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        cores=os.cpu_count(),
        machine=platform.machine(),
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in ("ray", "pylance", "lancedb")),
        store="the S3 server of CLIPMILL_S3_ENDPOINT" if os.environ.get("CLIPMILL_S3_ENDPOINT") else "moto's S3 server",
        outcome=outcome,
    )
    text += GROWN.format(late=", ".join(map(str, SAME_WORK[1])), early=", ".join(map(str, SAME_WORK[0])), most=GROWTH)
    for kind, of in rows.items():
        if kind not in short:
            grown = growth(of)
            numbers = " | ".join(f"{grown[name]:.2f}" for name in FIGURES)
            text += f"| {kind} | {numbers} |\n"
    for kind, of in rows.items():
        text += TABLE.format(kind=kind) + "".join(_line(row) for row in of)
    Path(page).write_text(text)


def _end(rows: list[Row]) -> str:
    return f"ended after night {rows[-1].night}" if rows else "not run"


def _line(row: Row) -> str:
    units = f"{row.came}, {row.changed}, {row.aliased}, {row.moved}, {row.gone}"
    size = f"{row.versions} ({row.rows_versions}) | {row.files} | {row.bytes // 1000} | {row.log_bytes // 1000}"
    said = f"| {row.night} | {row.what} | {row.status} | {row.seconds:.1f} | {row.fresh_s:.1f} | {row.rows} "
    return f"{said}| {units} | {row.looks} | {size} |\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
