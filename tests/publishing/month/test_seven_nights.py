"""Seven nights over a bucket that changes every day and a store that is not always well; `MONTH_NIGHTS=30` makes it a
month, with a model and a vocabulary that change in the middle, and `MONTH_RESULTS` keeps its figures in a folder.

After each night the table equals one built from scratch, readers at full speed saw no error, no duplicate and nothing
that was not published, and what lies in the bucket stays bounded.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmill.jobs.publishing.night import Night
from clipmill.jobs.table.readers import readers
from tests.conftest import S3
from tests.integration import help
from tests.publishing.month.calendar import Calendar
from tests.publishing.month.month import Month
from tests.publishing.month.month_page import GROWTH, LAST, Kept, Row, growth
from tests.publishing.month.onlookers import onlookers
from tests.publishing.month.program import DAYS, MONTH, WEEK, Evening
from tests.publishing.month.shards import SIZE, SOURCES, Shards, day, first_day

NIGHTS = int(os.environ.get("MONTH_NIGHTS", "7"))
RESULTS = os.environ.get("MONTH_RESULTS", "")
INDEXED = "tars"  # the source whose table has an index of its vectors


def program(kind: str) -> tuple[int, dict[int, Evening]]:
    if max(MONTH) <= NIGHTS:
        return NIGHTS, MONTH
    return (NIGHTS, WEEK) if kind == "tars" else (max(DAYS), DAYS)


@pytest.fixture
def month(here: Path, s3: S3) -> Callable[[str], Month]:
    def begun(kind: str) -> Month:
        made = Month(here, Shards(s3, kind))
        first_day(made.shards)
        made.write_golden()
        return made

    return begun


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", SOURCES)
def test_every_night_the_table_is_what_its_source_is(
    month: Callable[[str], Month], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, evenings = program(kind)
    rng, made, calendar = random.Random(kind), month(kind), Calendar(monkeypatch)
    kept = Kept(made.shards.s3.server)
    assert made.night().status == "published"
    made.equals_one_from_scratch(1)
    if kind == INDEXED:
        made.index()
        assert made.night().status == "published"
    with onlookers(made.job().table, made.job().storage) as watching:
        for night in range(2, last + 1):
            evening = evenings.get(night, Evening())
            calendar.tomorrow()
            day(made.shards, rng, night, cut=evening.cut)
            if "golden" in evenings.get(night - 1, Evening()).what:
                made.shards.mend_golden()
            began_s, looks = time.monotonic(), watching.looks
            found = evening.trouble(made)
            seconds = time.monotonic() - began_s
            size = {**made.size(), "looks": watching.looks - looks}
            fresh_s = check(made, night, evening, found)
            kept.rows.append(Row.of(night, evening.what, found, (seconds, fresh_s), size))
            kept.write(RESULTS, kind)
    assert kind != "tars" or sum(row.aliased for row in kept.rows) > 0, "no tar came again under another etag"
    assert watching.looks > last
    assert set(watching.seen) <= made.published, "readers saw what was not published"
    assert max(watching.seen) == max(made.published), "readers did not follow"
    if last >= LAST:
        grown = growth(kept.rows)
        assert all(share <= GROWTH for share in grown.values()), grown
    kept.passed = True
    kept.write(RESULTS, kind)


def check(made: Month, night: int, evening: Evening, found: Night) -> float:
    """Returns the seconds of the table from scratch."""
    refused = "refused" in evening.what
    assert found.status in (("refused",) if refused else ("published", "nothing")), found
    if not evening.what and made.shards.kind == "tars":
        assert (found.came, found.moved) == (1, 1), found
    fresh_s = made.equals_one_from_scratch(night)
    assert help.problems(made.job()) == []
    if made.indexed:
        assert made.is_covered(), "a night left rows out of the index"
        assert found.status == "nothing" or "recall" in {gate.name for gate in found.gates}, found
    if refused:
        return fresh_s
    before = help.versions(made.job())
    assert readers(help.tables(made.job()).open()).live == before[""]
    assert made.night().status == "nothing"
    assert help.versions(made.job()) == before, "a night with nothing to do wrote something"
    return fresh_s


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(600)
@pytest.mark.parametrize("left", [0, SIZE // 2], ids=["all", "more than is believed"])
def test_a_bucket_that_lost_too_much_takes_nothing_from_the_table(month: Callable[[str], Month], left: int) -> None:
    made = month("tars")
    assert made.night().status == "published"
    kept = dict(made.shards.seeds)
    before = help.versions(made.job())[""]
    for name in sorted(kept)[: len(kept) - left]:
        made.shards.delete(name)
    found = made.night()
    assert (found.status, [gate.name for gate in found.refused]) == ("refused", ["gone"])
    assert help.versions(made.job())[""] == before
    for name, seeds in kept.items():
        made.shards.put(name, seeds)
    assert made.night().status in ("nothing", "published")
    made.equals_one_from_scratch(1)
