"""What ran on a table: rate, what limited it, what came of it and what it cost, from `__runs` alone."""

import json
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.table.runs import events_of
from clipmill.jobs.table.tables import Tables

ENDS = ("finished", "drained", "failed")
LAST = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """One run. `at`: when it ended, ISO 8601 in UTC, or began where it has not. `loads`: share of its time that each
    stage was busy, 0 to about 1. `dollars`: None where the job names no price, or no GPU was used. `note`: why it
    failed, else what the run said at its end."""

    run: str
    command: str
    event: str
    at: str
    seconds: float = 0.0
    seen: int = 0
    rows: int = 0
    rejected: int = 0
    failed_units: int = 0
    samples_per_s: float = 0.0
    limited_by: str = ""
    loads: dict[str, float] = field(default_factory=dict)
    workers: int = 0
    device: str = ""
    dollars: float | None = None
    table_version: int = 0
    note: str = ""


def read_runs(tables: Tables) -> list[RunFigures]:
    """The last runs of the table that is there now, the earliest first."""
    words = ", ".join(f"'{event}'" for event in ("started", *ENDS))
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events_of(tables, ["run", "command", "event", "at", "detail"], f"event IN ({words})"):
        found.setdefault(event["run"], []).append(event)
    return [_figures(name, parts) for name, parts in list(found.items())[-LAST:]]


def _figures(run: str, events: list[dict[str, Any]]) -> RunFigures:
    """Of the events of one run, in their order."""
    end = events[-1]
    job = next((_object(e["detail"]) for e in events if e["event"] == "started"), {})
    said = _object(end["detail"]) if end["event"] != "started" else {}
    took = (end["at"] - events[0]["at"]).total_seconds()
    seconds = _number(said.get("seconds")) or took
    return RunFigures(
        run=run,
        command=str(end["command"]),
        event=str(end["event"]),
        at=end["at"].isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        seen=int(_number(said.get("seen"))),
        rows=int(_number(said.get("rows"))),
        rejected=sum(int(_number(n)) for n in _mapping(said.get("rejects")).values()),
        failed_units=len(said["failed_units"]) if isinstance(said.get("failed_units"), list) else 0,
        samples_per_s=_number(said.get("samples_per_s")),
        limited_by=str(said.get("limited_by") or ""),
        loads={str(name): _number(share) for name, share in _mapping(said.get("loads")).items()},
        workers=int(_number(said.get("workers"))),
        device=str(said.get("device") or ""),
        dollars=_dollars(job, said, seconds),
        table_version=int(_number(said.get("table_version"))),
        note=str(end["detail"])[:500] if end["event"] == "failed" else str(said.get("note") or ""),
    )


def _dollars(job: dict[str, Any], said: dict[str, Any], seconds: float) -> float | None:
    """GPUs × hours × the job's price; a machine without GPUs has no price in the job file. The hours are those of each
    worker; of runs that did not note them, of as many as the run began with, all the time."""
    price = _mapping(job.get("plan")).get("price_per_gpu_hour")
    if not isinstance(price, int | float) or said.get("device", "cpu") in ("", "cpu"):
        return None
    gpus = _mapping(job.get("workers")).get("gpus")
    each = float(gpus) if isinstance(gpus, int | float) else 1.0
    worker_s = _number(said.get("worker_s")) or _number(said.get("workers")) * seconds
    return round(float(price) * each * worker_s / 3600, 4)


def _object(text: str) -> dict[str, Any]:
    try:
        return _mapping(json.loads(text))
    except ValueError:  # a failed run says its error, which is no JSON
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
