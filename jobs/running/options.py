"""How a run goes, as opposed to what it does; and its name."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clipmill.jobs.committing.cleanup import KEEP
from clipmill.jobs.committing.commit import Hook, no_hook
from clipmill.jobs.committing.holder import TTL_S
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.readers import Readers


def as_planned(plan: Plan) -> Plan:
    return plan


def nothing_again(latest: Ledger) -> frozenset[str]:
    return frozenset()


@dataclass(slots=True, kw_only=True)
class Options:
    """How to run, as opposed to what.

    `review` is shown what is to do before anything is written: once by the ledger that everybody sees, and again under
    the lease. It may refuse by raising, or return the plan with gone units taken out of the table (`Plan.without`).
    `redo`: units to do again although the ledger has them, asked as often. `hook` is called at each step of a commit,
    for tests that kill there.
    """

    address: str | None = None
    publish: bool = False
    command: str = "embed"
    resume: str = ""  # the command that resumes, for a person
    lease_ttl_s: float = TTL_S
    num_cpus: int | None = None  # of a cluster started here; None: the machine's
    keep_versions: timedelta = KEEP
    redo: Callable[[Ledger], frozenset[str]] = nothing_again
    review: Callable[[Plan], Plan] = as_planned
    hook: Hook = no_hook
    metrics: Path | None = None  # where the run's figures are kept, an absolute path

    def readers_notes(self, seen: Readers, *, publish: bool, whole: bool) -> list[str]:
        """What a person has to know of readers at the run's end; of a night its gates say it, later."""
        if self.command == "nightly":
            return []
        again = self.resume or "clipmill embed JOB"
        return seen.notes(publish=publish, whole=whole, hint=f"`{again} --publish` publishes the newest")


def new_run_id() -> str:
    """Sorts by time: 20261121T193000-1a2b3c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
