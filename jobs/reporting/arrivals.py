"""Which units came in which runs, at a version of the table; and in a night, with what killed nights had left it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from typing import Any

from clipmill.jobs.publishing.night import Night, nights
from clipmill.jobs.table.ledger import fold, from_batch, live
from clipmill.jobs.table.live import PUBLISHED, moves
from clipmill.jobs.table.runs import nights_begun
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.errors import UserError
from clipmill.schemas.unit.receipts import LedgerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """`units` that `runs` brought and whose rows are in the table. `before`: the version that had none of them."""

    runs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    before: int = 0


@dataclass(frozen=True, slots=True)
class _Came:
    """A unit, and the commit that brought it."""

    unit_id: str
    run: str
    version: int


def arrivals(tables: Tables, *, version: int, since: str | None = None) -> Arrivals:
    """What the last publication up to `version` brought that brought any unit; where nothing was published before it,
    of the last run, and of nights before it that did not end. With `since` of a run and all later ones, or of all runs
    since a date (ISO 8601, UTC unless it says otherwise). Raises UserError for a run that is not known."""
    came = _came_until(tables, version)
    if since is None:
        return _last_published(tables, came, version)
    wanted = set(_since(tables, _order(came), since))
    return _of([one for one in came if one.run in wanted])


def came_in(tables: Tables, night: Night) -> Arrivals | None:
    """What the report of this night lists: all that came since that of the last whole night, whichever run brought it.
    Nothing for a night that is not whole; None for one of an older release, which did not note where it begins."""
    if not night.is_whole:
        return Arrivals()
    after = night.listed_until
    if after is None:
        return None
    return _of([one for one in _came_until(tables, night.versions.get("rows", 0)) if one.version > after], after)


def _came_until(tables: Tables, version: int) -> list[_Came]:
    """Of the units whose rows are there at this version. That rows of a unit were deleted, or followed their sample
    into another one, is an event of it too, but brings nothing."""
    units, mine = tables.open("units", missing_ok=True), tables.id()
    if units is None or mine is None:
        return []
    only = f"table_version <= {version} AND {of_table(units.schema, mine)}"
    events = [event for batch in units.to_batches(filter=only) for event in from_batch(batch)]
    first: dict[tuple[str, str, int], int] = {}
    for e in events:
        if e.state == LedgerState.COMMITTED:
            key = (e.unit_id, e.run, e.attempt)
            first[key] = min(first.get(key, e.table_version), e.table_version)
    alive = [e for e in live(fold(events)).values() if e.state == LedgerState.COMMITTED]
    return [_Came(e.unit_id, e.run, first[e.unit_id, e.run, e.attempt]) for e in alive]


def _of(came: Sequence[_Came], before: int | None = None) -> Arrivals:
    first = min((one.version for one in came), default=1) - 1
    units = tuple(one.unit_id for one in came)
    return Arrivals(runs=tuple(_order(came)), units=units, before=first if before is None else before)


def _order(came: Iterable[_Came]) -> list[str]:
    """Runs by the last version that brought anything of them."""
    last: dict[str, int] = {}
    for one in came:
        last[one.run] = max(last.get(one.run, 0), one.version)
    return sorted(last, key=lambda run: last[run])


def _last_published(tables: Tables, came: Sequence[_Came], version: int) -> Arrivals:
    shown = {detail["version"] for event, detail in moves(tables) if event == PUBLISHED}
    marks = sorted({0, version, *(mark for mark in shown if mark <= version)})
    for after, until in reversed(list(pairwise(marks))):
        some = [one for one in came if after < one.version <= until]
        if some and after:
            return _of(some, after)
        if some:
            runs = _order(some)
            unfinished = nights_begun(tables) - {night.run for night in nights(tables) if night.is_whole}
            wanted = {runs[-1], *takewhile(unfinished.__contains__, reversed(runs[:-1]))}
            return _of([one for one in some if one.run in wanted])
    return Arrivals()


def _since(tables: Tables, order: Sequence[str], since: str) -> list[str]:
    times = _began(tables)
    moment = moment_of(since)
    if since in times or since in order:
        began = times.get(since)
        later = list(order[order.index(since) :]) if since in order else []
        return later or [run for run in order if began is not None and times.get(run, began) > began]
    if moment is None:
        raise UserError(
            f"'{since}' is neither a run of this table nor a date",
            "`clipmill status TABLE` shows the last runs; a date is written 2026-01-31 or 2026-01-31T04:00",
        )
    return [run for run in order if run in times and times[run] >= moment]


def _began(tables: Tables) -> dict[str, datetime]:
    """When each known run did its first thing."""
    dataset, mine = tables.open("runs", missing_ok=True), tables.id()
    if dataset is None or mine is None:
        return {}
    rows: list[dict[str, Any]] = dataset.to_table(
        columns=["run", "at"], filter=of_table(dataset.schema, mine)
    ).to_pylist()
    found: dict[str, datetime] = {}
    for row in rows:
        found[row["run"]] = min(found.get(row["run"], row["at"]), row["at"])
    return found


def moment_of(text: str) -> datetime | None:
    """A date, or date and time; None for anything else, such as the name of a run."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
