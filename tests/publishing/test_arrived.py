"""Rows of a night: new, changed, or only read again with the unit that holds them."""

from pathlib import Path

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.maintaining.maintain import maintain
from clipmill.jobs.publishing.arrived import Arrived, arrived
from tests.committed import entry, fragments, make_tables, take_lease


def test_a_folder_unit_that_is_written_anew_has_the_rows_it_had(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    lease = take_lease(tables, "a")
    Committer(tables, lease).commit([entry("old", "a", 3)], fragments(tables, "old", ["p", "q", "it's"]))
    before = int(tables.open().version)
    assert arrived(tables.open(), 0) == Arrived(new=3)
    assert arrived(tables.open(), before) == Arrived()
    # q has other bytes now, r is new, s left
    texts = fragments(tables, "new", ["p", "q", "it's", "r"], images=["p", "other", "it's", "r"])
    Committer(tables, lease).commit([entry("new", "a", 4)], texts, remove_units=["old"])
    assert arrived(tables.open(), before) == Arrived(new=1, changed=1, again=2)
    maintain(tables, lease, say=lambda text: None)  # merging rows does not make them new
    assert arrived(tables.open(), before) == Arrived(new=1, changed=1, again=2)
    lease.release()
