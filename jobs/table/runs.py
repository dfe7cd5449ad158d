"""What the `__runs` table remembers of the jobs that filled this table."""

import json
from typing import Any

from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table
from clipmill.schemas.job.config import Source

NIGHT = "night"  # the line that remembers one, written by `jobs.publishing`


def events(runs: Any, columns: list[str], where: str) -> list[dict[str, Any]]:
    """Lines of the `__runs` table, the earliest first: in the order in which they were written. What they say of the
    time is of the clocks of many machines, one of which may be an hour off."""
    found = runs.to_table(columns=columns, filter=where, with_row_id=True).sort_by("_rowid")
    lines: list[dict[str, Any]] = found.drop_columns("_rowid").to_pylist()
    return lines


def events_of(tables: Tables, columns: list[str], where: str) -> list[dict[str, Any]]:
    """`events` of the table that is there now alone; none where no run is known."""
    runs, mine = tables.open("runs", missing_ok=True), tables.id()
    if runs is None or mine is None:
        return []
    return events(runs, columns, f"{where} AND {of_table(runs.schema, mine)}")


def last_job(tables: Tables) -> dict[str, Any]:
    """The job file of the run of this table that started last, as plain values; empty where no run is known."""
    for started in reversed(events_of(tables, ["detail"], "event = 'started'")):
        try:
            found = json.loads(started["detail"])
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def last_failed(tables: Tables) -> set[str]:
    """Ids of the units that failed in the run of this table that ended last; empty where no run is known."""
    for ended in reversed(events_of(tables, ["detail"], "event IN ('finished', 'drained')")):
        try:
            return {str(unit["unit_id"]) for unit in json.loads(ended["detail"])["failed_units"]}
        except (ValueError, KeyError, TypeError):  # of another release, or another kind of run
            continue
    return set()


def how_last_run_ended(tables: Tables) -> tuple[str, str]:
    """(run, event) of the run of this table that began last: finished, drained (it was interrupted), failed, or started
    where it has no end: it was killed, or is under way. Empty where no run is known."""
    lines = events_of(tables, ["run", "event"], "event IN ('started', 'finished', 'drained', 'failed')")
    last = next((line["run"] for line in reversed(lines) if line["event"] == "started"), "")
    return last, next((line["event"] for line in reversed(lines) if line["run"] == last), "")


def nights_begun(tables: Tables) -> set[str]:
    """Runs of this table that nights began, whatever became of them."""
    return {line["run"] for line in events_of(tables, ["run"], "event = 'started' AND command = 'nightly'")}


def last_source(tables: Tables) -> Source | None:
    """The source of that job; None where it is not known, or its words are of another release."""
    try:
        return Source.model_validate(last_job(tables)["source"])
    except (KeyError, ValueError):
        return None
