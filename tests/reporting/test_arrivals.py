"""What came is in the report of one night, whatever became of the nights before it; and in `watch` once it is seen."""

from dataclasses import replace
from pathlib import Path

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.publishing.arrived import is_unlisted, listed_until
from clipmill.jobs.publishing.night import Gate, Night, nights, now, remember
from clipmill.jobs.reporting.arrivals import arrivals, came_in
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.live import PUBLISHED, move_live
from clipmill.jobs.table.tables import Tables
from tests.committed import entry, fragments, make_tables, take_lease

GONE = Gate(name="gone", passed=False, value=1.0, threshold=0.1)
COVERAGE = Gate(name="coverage", passed=False, value=0.9, threshold=0.99)


def bring(tables: Tables, name: str, *, command: str = "nightly", publish: bool = False) -> None:
    """A run of this name with a unit of this name."""
    tables.log_run(name, command, "started", "{}", table_id=tables.id())
    lease = take_lease(tables, name)
    committer = Committer(tables, lease)
    committer.commit([entry(name, name, 2)], fragments(tables, name, [f"{name}-0", f"{name}-1"]))
    if publish:
        move_live(tables, lease, int(tables.open().version), PUBLISHED, {})
    lease.release()


def end(tables: Tables, run: str, status: str, gates: tuple[Gate, ...] = ()) -> Night:
    """The night as it is remembered. Of the log only the last night is asked: many may have failed before it."""
    newest = int(tables.open().version)
    night = Night(run=run, table="t", at=now(), status=status, gates=gates, versions={"rows": newest})
    night = replace(night, listed_until=listed_until(tables, nights(tables, last=1), newest))
    remember(tables, night)
    return night


def test_each_row_is_in_the_report_of_one_night_and_in_watch_when_readers_see_it(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    bring(tables, "killed")  # and so forgotten: the first night there ever was
    bring(tables, "interrupted")
    told = {"interrupted": end(tables, "interrupted", "interrupted")}
    bring(tables, "published", publish=True)
    told["published"] = end(tables, "published", "published")
    seen = int(tables.open().version)
    bring(tables, "killed again")
    told["gone"] = end(tables, "gone", "refused", (GONE,))
    bring(tables, "failed")
    told["failed"] = end(tables, "another name", "failed")
    bring(tables, "refused")
    told["refused"] = end(tables, "refused", "refused", (COVERAGE,))
    bring(tables, "by hand", command="embed")
    lease = take_lease(tables, "delete")
    fewer = replace(read_ledger(tables)["killed"], deleted=1, deleted_by="delete", table_version=0)
    Committer(tables, lease).commit([fewer], [], remove_ids={"killed": ["killed-0"]})
    lease.release()
    bring(tables, "last", publish=True)
    told["last"] = end(tables, "last", "published")

    listed = {name: came_in(tables, night) for name, night in told.items()}
    assert {name: came.units for name, came in listed.items() if came is not None} == {
        "interrupted": (),
        "published": ("killed", "interrupted", "published"),
        "gone": (),
        "failed": (),
        "refused": ("killed again", "failed", "refused"),
        "last": ("by hand", "last"),
    }
    assert arrivals(tables, version=seen).runs == ("killed", "interrupted", "published")
    assert arrivals(tables, version=int(tables.open().version)).runs == (
        "killed again",
        "failed",
        "refused",
        "by hand",
        "last",
    )
    assert arrivals(tables, version=seen, since="published").runs == ("published",)


def test_a_night_of_nothing_lists_what_a_killed_one_had_published(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    bring(tables, "first", publish=True)
    end(tables, "first", "published")
    newest = int(tables.open().version)
    idle = Night(run="", table="t", at=now(), versions={"rows": newest}, listed_until=newest)
    assert not is_unlisted(tables, idle)
    bring(tables, "killed", publish=True)
    newest = int(tables.open().version)
    idle = replace(idle, versions={"rows": newest}, listed_until=listed_until(tables, nights(tables), newest))
    assert is_unlisted(tables, idle)
    came = came_in(tables, idle)
    assert came is not None
    assert came.units == ("killed",)
