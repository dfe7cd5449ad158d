"""Which units came in which runs, at a version of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.table.ledger import live, read_ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.errors import UserError
from clipmill.schemas.receipts import LedgerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """`units` that `runs` brought and whose rows are in the table. `before`: the version that had none of them."""

    runs: tuple[str, ...]
    units: tuple[str, ...]
    before: int


def arrivals(tables: Tables, *, version: int, since: str | None = None) -> Arrivals:
    """Of the last run that brought any unit up to `version`; or with `since` of a run and all later ones, or of all
    runs since a date (ISO 8601, UTC unless it says otherwise). Raises UserError for a run that is not known."""
    alive = live(read_ledger(tables)).values()
    entries = [e for e in alive if e.state == LedgerState.COMMITTED and e.table_version <= version]
    last: dict[str, int] = {}
    for entry in entries:
        last[entry.run] = max(last.get(entry.run, 0), entry.table_version)
    order = sorted(last, key=lambda run: last[run])
    wanted = set(order[-1:] if since is None else _since(tables, order, since))
    mine = [e for e in entries if e.run in wanted]
    return Arrivals(
        runs=tuple(run for run in order if run in wanted),
        units=tuple(e.unit_id for e in mine),
        before=min((e.table_version for e in mine), default=1) - 1,
    )


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
