"""What a night did and whether it may be seen, and how it is remembered: an event `night` in `__runs`, JSON."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.table.runs import NIGHT, events_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import Nightly


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition of publishing. `value` and `before` (of the published version) are in the gate's own unit, mostly
    shares; None where they could not be computed. `sentence` has the numbers, for a person. `hint`: the way on
    where it is not the usual one."""

    name: str  # gone | held | rows | coverage | rejects | vectors | tag_drift | recall | golden | sets | columns
    passed: bool
    value: float | None
    threshold: float | None
    before: float | None = None
    sentence: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One call of the nightly command.

    `came`, `changed`, `aliased`, `moved`, `gone`: units. `rows_before`, `rows_after`: of the newest version at the
    start and at the end; `seen`, `rows` and `rejects` (by reason) are of this night's units. `deleted`: rows that left
    because their source is gone. `at`: when it began, ISO 8601 in UTC. `versions`: version of each table at the end
    (`rows`, `units`, `rejects`, `runs`). `version_before`: of the rows when it began, so that
    `_row_created_at_version > version_before` are the rows of the night. `listed_until`: of the rows, up to which the
    reports of earlier nights list what came. `status`: `published`, `nothing`, `refused` (a gate), `units` (published,
    but units failed), `interrupted`, `failed`.
    """

    run: str
    table: str
    at: str
    status: str = "nothing"
    seconds: float = 0.0
    units: int = 0
    came: int = 0
    changed: int = 0
    aliased: int = 0
    moved: int = 0
    gone: int = 0
    gone_samples: int = 0  # that the source has no more and the table still has
    gone_before: int | None = None  # the same of the last night before it that was not refused for them
    retried: int = 0  # units done again because a reject of theirs may have passed
    deleted: int = 0
    seen: int = 0
    rows: int = 0
    rows_new: int | None = None  # of `rows`, ids that were not there; None where nobody counted
    rows_changed: int | None = None  # ids with another picture or caption; the rest of `rows` is as it was
    rejects: dict[str, int] = field(default_factory=dict)
    failed_units: list[dict[str, str]] = field(default_factory=list)
    rows_before: int = 0
    rows_after: int = 0
    version_before: int = 0
    listed_until: int | None = None  # None where the store could not be asked, and of older releases
    samples_per_s: float = 0.0
    limited_by: str = ""
    worker_hours: float | None = None
    dollars: float | None = None
    versions: dict[str, int] = field(default_factory=dict)
    live_before: int | None = None
    live_after: int | None = None
    gates: tuple[Gate, ...] = ()
    sets: list[dict[str, Any]] = field(default_factory=list)  # beside the one in use, as they are after the night
    columns: list[dict[str, Any]] = field(default_factory=list)  # scores of sets, tags beside, that rows had not
    maintained: dict[str, Any] = field(default_factory=dict)  # what `maintain` says it did
    error: str = ""  # of a night that failed
    note: str = ""

    @property
    def rows_gone(self) -> int:
        """Rows that were there when it began and are not any more, as far as it counted what is new."""
        new = self.rows if self.rows_new is None else self.rows_new
        return max(0, self.rows_before + new - self.rows_after)

    @property
    def rows_again(self) -> int:
        """Rows as they were, whose unit was written anew; 0 where nobody counted."""
        return 0 if self.rows_new is None else max(0, self.rows - self.rows_new - (self.rows_changed or 0))

    @property
    def is_whole(self) -> bool:
        """It took in what its source had, so its report lists what came; else that is left to the next that is."""
        return self.status not in ("failed", "interrupted") and all(gate.name != "gone" for gate in self.refused)

    @property
    def refused(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def remember(tables: Tables, night: Night) -> None:
    """Append it to `__runs`."""
    tables.log_run(night.run, "nightly", NIGHT, json.dumps(asdict(night)), table_id=tables.id())


def nights(tables: Tables, last: int = 30) -> list[Night]:
    """The newest `last` nights of the table that is there now, oldest first. Unknown fields are left out."""
    return [from_json(line["detail"]) for line in events_of(tables, ["detail"], f"event = '{NIGHT}'")[-last:]]


def from_json(text: str) -> Night:
    raw = json.loads(text)
    gates = tuple(Gate(**_known(Gate, gate)) for gate in raw.get("gates", ()))
    return Night(**{**_known(Night, raw), "gates": gates})


def _known(kind: Any, raw: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in raw.items() if name in names}


def webhook_address(nightly: Nightly) -> str | None:
    """The address itself, never to be logged. Raises UserError where the variable it stands in is not set."""
    if nightly.webhook is None:
        return None
    text = nightly.webhook.get_secret_value()
    if not text.startswith("env:"):
        return text
    found = os.environ.get(text.removeprefix("env:"), "")
    if not found:
        raise UserError(
            f"nightly.webhook names the variable {text.removeprefix('env:')}, which is not set",
            "set it where the night runs, or write the address itself",
        )
    return found
