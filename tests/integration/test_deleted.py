"""What a person had deleted does not come back through a run: uploaded again, rewritten, renamed, healed after a kill;
and comes back when the tombstone is taken back."""

import os
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.maintaining.delete import Deleted, Options, Which, delete, take_back
from clipmill.jobs.verifying.status import status
from clipmill.schemas.job.config import JobFile, Storage
from tests.integration.help import job, problems, rejects, rows, run, write_tar

pytestmark = pytest.mark.ray


class Killed(BaseException):
    """kill -9: nothing in the protocol catches it."""


def yes(found: Deleted) -> None:
    pass


def silent(text: str) -> None:
    pass


def gone(made: JobFile, *ids: str, **options: Any) -> Deleted:
    return delete(made.table, Storage(), Which(ids=ids), Options(**options), confirm=yes, say=silent)


def captions(made: JobFile) -> list[str]:
    return sorted(row["caption"] for row in rows(made, "caption"))


def pictures(*numbers: int) -> list[str]:
    return [f"picture {number}" for number in numbers]


def check(made: JobFile) -> None:
    assert problems(made) == []
    assert status(made.table, Storage()).balanced


def test_a_deleted_row_does_not_come_back(here: Path) -> None:
    raw = here / "raw"
    write_tar(raw / "0.tar", range(3))
    write_tar(raw / "1.tar", range(3, 5))
    made = job(here, {"format": "webdataset", "uri": f"{here}/raw/*.tar", "caption": "txt"})
    run(made)
    mine = next(row["id"] for row in rows(made, "id", "caption") if row["caption"] == "picture 1")

    def die(step: str) -> None:
        if step == "after_rows":
            raise Killed

    with pytest.raises(Killed):  # the rows have left, the ledger does not know; the next run heals it
        gone(made, mine, hook=die)
    write_tar(raw / "2.tar", range(5, 6))
    healed = run(made)
    assert (healed.healed_units, captions(made)) == (1, pictures(0, 2, 3, 4, 5))
    check(made)

    data = (raw / "0.tar").read_bytes()  # uploaded again, unchanged: another etag
    (raw / "0.tar").write_bytes(data)
    os.utime(raw / "0.tar", (1e9, 1e9))
    assert run(made).aliases == 1
    assert captions(made) == pictures(0, 2, 3, 4, 5)
    check(made)

    write_tar(raw / "0.tar", range(3), bad=1)  # rewritten: its unit is another one
    again = run(made)
    assert again.rejects["deleted"] == 1
    assert captions(made) == pictures(0, 2, 3, 4, 5)
    (reject,) = [one for one in rejects(made) if one["reason"] == "deleted"]
    assert reject["id"] == mine
    check(made)

    (raw / "0.tar").rename(raw / "9.tar")  # renamed: with `id: uri` its ids are others
    run(made)
    assert captions(made) == pictures(0, 2, 3, 4, 5)
    check(made)
    assert run(made).note.startswith("nothing to do")

    taken = take_back(made.table, Storage(), Which(ids=(mine,)), dry_run=False, confirm=yes, say=silent)
    assert taken.rows == 1
    run(made)
    assert captions(made) == pictures(0, 1, 2, 3, 4, 5)
    check(made)
    assert run(made).note.startswith("nothing to do")


def test_after_undo_a_unit_that_was_never_read_again_is(here: Path) -> None:
    write_tar(here / "raw" / "0.tar", range(3))
    made = job(here, {"format": "webdataset", "uri": f"{here}/raw/*.tar", "caption": "txt"})
    run(made)
    ids = [row["id"] for row in rows(made, "id")]
    gone(made, *ids)
    assert run(made).note.startswith("nothing to do")
    take_back(made.table, Storage(), Which(ids=tuple(ids[:2])), dry_run=False, confirm=yes, say=silent)
    run(made)
    assert captions(made) == pictures(0, 1)
    check(made)
    assert status(made.table, Storage()).rejects == {"deleted": 1}
