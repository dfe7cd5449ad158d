"""Seven nights over a bucket that changes every day; `MONTH_NIGHTS=30` makes it a month.

After each night the table equals one built from scratch, readers at full speed saw no error, no duplicate and nothing
that was not published.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmill.jobs.committing.commit import STEPS
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.readers import readers
from clipmill.schemas.errors import LeaseHeld
from tests.conftest import S3
from tests.integration import help
from tests.publishing.month import SOURCES, Month, Shards

NIGHTS = int(os.environ.get("MONTH_NIGHTS", "7"))
SIZE = 12


def _change(shards: Shards, rng: random.Random, night: int) -> list[str]:
    """What the day brought: shards added, replaced, uploaded again, deleted, cut short, renamed."""
    names = sorted(shards.seeds)
    rng.shuffle(names)
    replaced, again, renamed, gone, short = names[:5]
    new = [night * 1000 + number for number in range(SIZE)]
    shards.put(f"shard{night:02d}", new)
    shards.put(replaced, [*shards.seeds[replaced][:-3], night * 1000 + 500, night * 1000 + 501])
    shards.upload_again(again)
    shards.rename(renamed, f"renamed{night:02d}")
    if night % 2:
        shards.delete(gone)
    else:
        shards.truncate(short)
    return [f"shard{night:02d}", replaced, again, renamed, gone if night % 2 else short]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", SOURCES)
def test_every_night_the_table_is_what_its_source_is(here: Path, s3: S3, kind: str) -> None:
    rng = random.Random(f"{kind} {NIGHTS}")
    shards = Shards(s3, kind)
    for number in range(8):
        shards.put(f"first{number}", [number * 100 + one for one in range(SIZE)])
    month = Month(here, shards)
    assert month.night().status == "published"
    month.equals_one_from_scratch(0)
    published = {int(readers(help.tables(month.job()).open()).live or 0)}
    with month.readers() as watching:
        for night in range(1, NIGHTS if kind == "tars" else max(4, NIGHTS // 2)):
            _change(shards, rng, night)
            if night % 3 == 1:
                month.killed_night(f"{STEPS[night % len(STEPS)]}:1")
            if night % 3 == 2:
                _lease_is_held(month)
            found = month.night()
            assert found.status == "published", found
            if kind == "tars" and night % 3 != 1:  # a night that was killed may have done some of it
                assert (found.aliased, found.moved, found.came) == (1, 1, 1), found
            published.add(int(found.live_after or 0))
            month.equals_one_from_scratch(night)
            assert help.problems(month.job()) == []
            before = help.versions(month.job())
            assert month.night().status == "nothing"
            assert help.versions(month.job()) == before, "a night with nothing to do wrote something"
    assert watching.looks > NIGHTS
    assert set(watching.seen) <= published, "readers saw what was not published"
    assert max(watching.seen) == max(published), "readers did not follow"


def _lease_is_held(month: Month) -> None:
    tables = help.tables(month.job())
    other = Lease(tables, "somebody-else", "embed", ttl_s=2.0)
    other.take()
    other.keep()
    try:
        with pytest.raises(LeaseHeld):
            month.night()
    finally:
        other.release()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "lose",
    [
        lambda shards: [shards.delete(name) for name in list(shards.seeds)],
        lambda shards: [shards.delete(name) for name in list(shards.seeds)[:3]],
    ],
    ids=["all", "more than is believed"],
)
def test_a_bucket_that_lost_too_much_takes_nothing_from_the_table(
    here: Path, s3: S3, lose: Callable[[Shards], object]
) -> None:
    shards = Shards(s3, "tars")
    for number in range(8):
        shards.put(f"first{number}", [number * 100 + one for one in range(SIZE)])
    month = Month(here, shards)
    assert month.night().status == "published"
    kept = dict(shards.seeds)
    before = help.versions(month.job())[""]
    lose(shards)
    found = month.night()
    assert (found.status, [gate.name for gate in found.refused]) == ("refused", ["gone"])
    assert help.versions(month.job())[""] == before
    for name, seeds in kept.items():
        shards.put(name, seeds)
    assert month.night().status in ("nothing", "published")
    month.equals_one_from_scratch(1)
