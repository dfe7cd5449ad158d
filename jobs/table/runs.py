"""What the `__runs` table remembers of the jobs that filled this table."""

import json
from typing import Any

from clipmill.jobs.table.tables import Tables
from clipmill.schemas.config import Source


def last_job(tables: Tables) -> dict[str, Any]:
    """The job file of the run that started last, as plain values; empty where no run is known."""
    runs = tables.open("runs", missing_ok=True)
    if runs is None:
        return {}
    started = runs.to_table(columns=["at", "detail"], filter="event = 'started'").sort_by([("at", "descending")])
    for text in started["detail"].to_pylist():
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def last_source(tables: Tables) -> Source | None:
    """The source of that job; None where it is not known, or its words are of another release."""
    try:
        return Source.model_validate(last_job(tables)["source"])
    except (KeyError, ValueError):
        return None
