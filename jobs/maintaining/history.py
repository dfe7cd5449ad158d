"""What the ledger and the run log no longer need is cut, so that neither grows with the age of the table.

The ledger keeps what a version of the rows that is still there needs (a rollback and the gates ask for it as it was
then), and every event since the first of the last `NIGHTS` nights, whose reports count them. Of a unit that had left
before all that, nothing is kept. What a person had deleted is never cut: `purge` and the tombstones go by it.

The log keeps all lines of the last `NIGHTS` runs and nights. Of older ones it keeps the last line of each kind, those
that an estimate rests on, the kinds that only a person's command writes, and of each run that still has units in the
table one line that says when it began, without its detail.

Whoever cuts has fenced the ledger first, so that no event of an earlier holder can land after what made it void is
gone (`Committer.enter`). Killed in between, nothing is lost and the next time goes on.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.ledger import RANK, live, read_ledger
from clipmill.jobs.table.live import PUBLISHED, ROLLED_BACK
from clipmill.jobs.table.runs import NIGHT, events_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.unit.receipts import LedgerState

NIGHTS = 30  # nights and runs of which everything is kept, as many as reports look back
ROWS_PER_DELETE = 10_000
# Kinds of lines that come without anybody asking for one: every run and every night writes some.
RUN = ("started", "finished", "drained", "failed")
FILL = ("fill-started", "fill-finished", "fill-failed")
ROUTINE = (*RUN, *FILL, NIGHT, PUBLISHED, ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class Event:
    """Of the ledger, as far as it matters here. `row_id`: names it to Lance."""

    row_id: int
    unit_id: str
    table_version: int
    state: str
    deleted_by: str


def cut_ledger(tables: Tables, lease: Lease) -> int:
    """How many events were cut. Under the lease, after healing. A conflict is left to the next time. The fence's tag
    holds what was there before: `lease.fence("units")` moves it on when the rest has been merged."""
    if not _void(tables):
        return 0
    lease.fence("units")
    done = 0
    for some in _chunks(_void(tables)):
        if not _delete(tables, lease, "units", [event.row_id for event in some]):
            break
        done += len(some)
    return done


def _void(tables: Tables) -> list[Event]:
    units, mine = tables.open("units"), tables.id() or ""
    if "deleted_by" not in units.schema.names:  # of an older clipmill, which the next run brings up to date
        return []
    columns = ["unit_id", "table_version", "state", "deleted_by"]
    found = units.to_table(columns=columns, filter=of_table(units.schema, mine), with_row_id=True)
    versions = [int(one["version"]) for one in tables.open().versions()]
    return list(void_events(_events(found), versions, _first_of_nights(tables)))


def void_events(events: Iterable[Event], versions: list[int], since: float) -> Iterator[Event]:
    """Those that no answer rests on, a unit's beside each other: they leave together, so that none is left without its
    end. `versions`: of the rows, that are there. `since`: events of this version and later ones stay."""
    events = list(events)
    last = max((event.table_version for event in events), default=0)  # healing looks at what came after it
    there = sorted(versions)

    def order(event: Event) -> tuple[str, int, int, int]:
        return event.unit_id, event.table_version, RANK[LedgerState(event.state)], event.row_id

    for _, some in groupby(sorted(events, key=order), key=lambda event: event.unit_id):
        history = list(some)
        if any(event.deleted_by for event in history):
            continue
        stays = False
        for event, after in zip(history, [*history[1:], None], strict=True):
            until = after.table_version if after is not None else np.inf
            seen = bool(np.searchsorted(there, event.table_version) < np.searchsorted(there, until))
            if event.state == LedgerState.RETIRED:
                seen = stays and seen  # else it ends nothing that is known
            if seen or event.table_version >= min(since, last):
                stays = True
            else:
                yield event


def cut_log(tables: Tables, lease: Lease) -> int:
    """How many lines were cut or emptied. Under the lease. A conflict is left to the next time."""
    runs, mine = tables.open("runs"), tables.id() or ""
    words = ", ".join(f"'{event}'" for event in ROUTINE)
    where = f"event IN ({words}) AND {of_table(runs.schema, mine)}"
    lines = runs.to_table(columns=["run", "event"], filter=where, with_row_id=True).sort_by("_rowid").to_pylist()
    old = lines[: _first_kept(lines)]
    if not old:
        return 0
    stay = {line["event"]: line["_rowid"] for line in lines}  # the last of each kind
    keep = {*stay.values(), *_rested_on(runs, where), lines[0]["_rowid"]}  # and the first: how old the table is
    old = [line for line in old if line["_rowid"] not in keep]
    alive = {entry.run for entry in live(read_ledger(tables)).values()}
    began: dict[str, int] = {}
    for line in old:
        if line["run"] in alive:
            began.setdefault(line["run"], line["_rowid"])
    heads = set(began.values())
    emptied = sorted(line["_rowid"] for line in old if line["_rowid"] in heads and line["event"] == "started")
    gone = [line["_rowid"] for line in old if line["_rowid"] not in heads]
    done = 0
    for some in _chunks(gone):
        if not _delete(tables, lease, "runs", some):
            return done
        done += len(some)
    return done + _empty(tables, lease, emptied)


def _events(found: pa.Table) -> list[Event]:
    return [
        Event(row["_rowid"], row["unit_id"], row["table_version"], row["state"], row["deleted_by"] or "")
        for batch in found.to_batches()
        for row in batch.to_pylist()
    ]


def _first_of_nights(tables: Tables) -> float:
    """The version from which on the reports of the last nights list what came; infinity where no night was ever written
    down."""
    first = np.inf
    for line in events_of(tables, ["detail"], f"event = '{NIGHT}'")[-NIGHTS:]:
        try:
            night = json.loads(line["detail"])
            before = night.get("version_before", 0)
            first = min(first, int(before), int(night.get("listed_until") or before))
        except (AttributeError, TypeError, ValueError):  # of another release
            return 0
    return first


def _first_kept(lines: list[dict[str, Any]]) -> int:
    """The place of the first line of the last runs, of the last runs and fills, and of the last nights, as many as are
    asked for anywhere; all is kept as long as there are fewer."""
    first: dict[str, int] = {}
    for place, line in enumerate(lines):
        first.setdefault(line["run"], place)
    kept = []
    for kinds in (RUN, (*RUN, *FILL), (NIGHT,)):
        runs = dict.fromkeys(line["run"] for line in lines if line["event"] in kinds)
        kept += [first[run] for run in list(runs)[-NIGHTS:]]
    return min(kept, default=0)


def _rested_on(runs: Any, where: str) -> Iterator[int]:
    """Of the runs that embedded something, the last on each kind of device: what an estimate goes by."""
    found: dict[bool, int] = {}
    told = runs.to_table(columns=["detail"], filter=f"{where} AND event = 'finished'", with_row_id=True)
    for line in told.sort_by("_rowid").to_pylist():
        try:
            run = json.loads(line["detail"])
        except ValueError:
            continue
        if run.get("samples_per_s") and run.get("seen"):
            found[run.get("device", "cpu") == "cpu"] = line["_rowid"]
    yield from found.values()


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    """Of about `ROWS_PER_DELETE`; events of one unit stay together."""
    some: list[Any] = []
    for _, group in groupby(values, key=lambda value: getattr(value, "unit_id", value)):
        some += group
        if len(some) >= ROWS_PER_DELETE:
            yield some
            some = []
    if some:
        yield some


def _delete(tables: Tables, lease: Lease, part: str, row_ids: list[int]) -> bool:
    """False where somebody else's commit was in the way."""
    dataset, where = tables.open(part), f"_rowid IN ({', '.join(map(str, row_ids))})"
    return _landed(tables.uri(part), lease, lambda: dataset.delete(where))


def _empty(tables: Tables, lease: Lease, row_ids: list[int]) -> int:
    """Lines that only say when a run began."""
    done = 0
    for some in _chunks(row_ids):
        runs, where = tables.open("runs"), f"_rowid IN ({', '.join(map(str, some))}) AND detail != ''"
        count = runs.count_rows(where)
        if count and _landed(tables.uri("runs"), lease, partial(runs.update, {"detail": "''"}, where=where)):
            done += count
    return done


def _landed(uri: str, lease: Lease, change: Callable[[], Any]) -> bool:
    lease.check()
    try:
        with writing(uri):
            change()
    except OSError as error:
        if not is_conflict(error):
            raise
        return False
    return True
