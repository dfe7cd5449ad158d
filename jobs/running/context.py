"""What every step of one run is given."""

from dataclasses import dataclass

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.planning.listing import Listing, plan_for
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.running.options import Options
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.terminal.progress import Progress
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.heads import Head
from clipmill.schemas.job.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One run of a job on its table. `lease` is its own, held or not yet; `started_s`, by the monotonic clock, is when
    the command began. The workers have a context too: `schemas.unit.tasks.WorkContext`."""

    job: JobFile
    options: Options
    tables: Tables
    lease: Lease
    progress: Progress
    vocabulary: Vocabulary | None
    listing: Listing
    started_s: float
    heads: tuple[Head, ...] = ()

    @property
    def table(self) -> str:
        """As a person names it."""
        return f"{self.tables.database}/{self.tables.name}"

    def plan(self, latest: Ledger) -> Plan:
        """What is to do by this ledger, as whoever started the run agrees to it."""
        return self.options.review(plan_for(self.job, self.tables, self.listing, latest, self.options.redo(latest)))

    def take_lease(self) -> None:
        """Waits for it, and renews it until it is released. Raises LeaseHeld."""
        self.lease.take(on_wait=self.progress.say)
        self.lease.keep(self.progress.say)
