"""What readers see: `live` moves to a version whose gates pass, and back. Both are lines of the run log.

A second tag keeps the version that was published before, so that there is always one to go back to.
"""

from dataclasses import dataclass
from typing import Any

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.maintaining.maintain import Say, leased
from clipmill.jobs.publishing.gates import check_gates, deleted_rows, judged_with
from clipmill.jobs.publishing.night import Gate
from clipmill.jobs.running.options import new_run_id
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.live import PREVIOUS, PUBLISHED, ROLLED_BACK, move_live, moves
from clipmill.jobs.table.readers import readers, tags_of
from clipmill.jobs.table.runs import how_last_run_ended, last_failed, last_job
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.nightly import Nightly
from clipmill.schemas.text.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`version`: what readers see now; `before`: what they saw, None where nothing was published. `overridden`: gates
    that refused, and were passed over by force."""

    table: str
    version: int | None
    before: int | None
    rows: int | None
    gates: tuple[Gate, ...] = ()
    overridden: tuple[str, ...] = ()
    note: str = ""

    @property
    def refused(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if not gate.passed and gate.name not in self.overridden)


def publish(table: str, storage: Storage, *, force: bool, say: Say) -> Published:
    """Judge the newest version by the thresholds of the job that ran last and with the units that failed last, and show
    it to readers if all gates pass, or by force. What a run that did not end had still to do nobody knows: the note
    says so. Raises UserError, LeaseHeld."""
    tables = Tables.at(table, storage)
    seen = readers(tables.open())
    if seen.live == seen.newest:
        note = "nothing to do: readers see the newest version"
        return Published(table=table, version=seen.live, before=seen.live, rows=seen.live_rows, note=note)
    nightly = last_thresholds(tables)
    with leased(tables, "publish", say) as (lease, _):
        gates = check_gates(tables, judged_with(tables, nightly, last_failed(tables)), say=say)
        refused = tuple(gate.name for gate in gates if not gate.passed)
        version = seen.live
        if force or not refused:
            version = int(tables.open().version)
            move_live(tables, lease, version, PUBLISHED, {"overridden": list(refused)})
    now = readers(tables.open())
    return Published(
        table=table,
        version=version,
        before=seen.live,
        rows=now.live_rows,
        gates=gates,
        overridden=refused if force else (),
        note=_not_counted(tables),
    )


def _not_counted(tables: Tables) -> str:
    run, event = how_last_run_ended(tables)
    what = {"started": "did not end", "failed": "failed", "drained": "was interrupted"}.get(event)
    return f"the last run, {run}, {what}: units that it did not come to are not counted as missing" if what else ""


def rollback(table: str, storage: Storage, *, to: str, say: Say) -> Published:
    """`to`: a version that is still there, or `previous`, which only goes back: called twice it would lead readers on
    again to what somebody has just taken from them. A number may be of a newer version than they see, where they saw it
    before, for this is no way past the gates; the note says that. Nights publish nothing after it until `publish` is
    called by hand. Raises UserError, LeaseHeld."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    before = readers(rows).live
    if before is None:
        raise UserError(
            f"nothing of {table} is published, so there is nothing to go back from",
            f"`clipmill publish {table}` publishes the newest version",
        )
    version = _wanted(rows, to)
    if version > before and to == "previous":
        raise UserError(
            f"readers see version {before}, and saw the newer {version} before it: they were taken back already",
            f"`--to {version}` leads them on again; to go further back, --to takes a version: {_shown(rows, before)}",
        )
    if version > before and not _was_published(tables, version):
        raise UserError(
            f"version {version} of {table} is newer than {before}, which readers see, and was never published",
            f"`clipmill publish {table}` looks at the gates and publishes the newest version; --force passes over them",
        )
    note = "" if version != before else f"nothing to do: readers see version {version}"
    if not note:
        lease = Lease(tables, new_run_id(), "rollback")
        lease.take(on_wait=say)
        lease.keep(say)
        try:
            on = f"version {version} is newer than {before}: readers go on to what they saw before"
            note = on if version > before else _of_going_back(tables, version)
            move_live(tables, lease, version, ROLLED_BACK, {})
        finally:
            lease.release(say)
    return Published(table=table, version=version, before=before, rows=readers(tables.open()).live_rows, note=note)


def _was_published(tables: Tables, version: int) -> bool:
    """So far as the log goes back."""
    return any(version in (move.get("version"), move.get("before")) for _, move in moves(tables))


def _of_going_back(tables: Tables, version: int) -> str:
    """What whoever had rows deleted has to hear, and that a version may be one in the middle of a run."""
    count = deleted_rows(read_ledger(tables)) - deleted_rows(read_ledger(tables, up_to=version))
    what = ("row that was deleted on request since is", "rows that were deleted on request since are")
    said = [f"{counted(count, *what)} seen again by readers"] if count > 0 else []
    if not _was_published(tables, version):
        said.append(f"version {version} was not published before: a run may have been in the middle of it")
    return "; ".join(said)


def _wanted(rows: Any, to: str) -> int:
    tags = tags_of(rows)
    if to == "previous" and PREVIOUS in tags:
        return int(tags[PREVIOUS]["version"])
    if to.isdigit() and int(to) in _there(rows):
        return int(to)
    shown = _shown(rows)
    if to == "previous":
        raise UserError(
            "no version was published before this one", f"--to takes a version that is still there: {shown}"
        )
    raise UserError(f"there is no version '{to}'", f"write previous, or a version that is still there: {shown}")


def _there(rows: Any) -> list[int]:
    return sorted(int(version["version"]) for version in rows.versions())


def _shown(rows: Any, before: int | None = None) -> str:
    """The newest few versions; `before`: older than that one."""
    found = [one for one in _there(rows) if before is None or one < before]
    return ("… " if len(found) > 10 else "") + (", ".join(map(str, found[-10:])) or "none is left")


def held_back(tables: Tables) -> tuple[int, int] | None:
    """(from, to) of a rollback by hand that readers still see the result of; nights leave that alone."""
    moved = moves(tables)
    if not moved or moved[-1][0] != ROLLED_BACK:
        return None
    detail = moved[-1][1]
    live = readers(tables.open()).live
    return (detail["before"], detail["version"]) if live == detail["version"] else None


def last_thresholds(tables: Tables) -> Nightly:
    """The section `nightly` of the job that ran last on this table; the defaults where it is not known."""
    found = {name: value for name, value in last_job(tables).get("nightly", {}).items() if name != "webhook"}
    try:
        return Nightly.model_validate(found)
    except ValueError:  # words of another release
        return Nightly()
