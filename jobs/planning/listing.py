"""What a source holds, and what of it is to do: looked at by `plan` and `embed` before they do anything."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clipmill.jobs.committing.duplicates import units_to_redo
from clipmill.jobs.committing.moves import gone_from
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.planning.turned import refuse_to_turn_back
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import EmptySource, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.left_out import LeftOut
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.tables.lance_table import named
from clipmill.workers.store.errors import telling

TOLD_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every unit of the source, and what its listing shows that no unit holds, by ending."""

    units: tuple[WorkUnit, ...]
    left_out: LeftOut


def list_source(job: JobFile, *, say: Callable[[str], None] = lambda text: None) -> Listing:
    """`say` hears when the store asks for patience, and every half a minute how far it is. Raises UserError as `survey`
    does, EmptySource also of a list without lines, StoreBusy, StoreUnavailable."""
    left_out: LeftOut = {}
    _refuse_itself(job)
    with telling(say):
        units = tuple(_told(survey(job.source, job.storage, job.limits, left_out=left_out), say))
    if not units:
        raise EmptySource(f"source.uri {', '.join(job.source.uri)} names nothing to embed", "is it the right file?")
    return Listing(units=units, left_out=left_out)


def _told(units: Iterator[WorkUnit], say: Callable[[str], None]) -> Iterator[WorkUnit]:
    """A bucket of 100 million objects is 100,000 pages, one after the other: hours without a word."""
    told_s, count, samples = time.monotonic(), 0, 0
    for unit in units:
        count, samples = count + 1, samples + (unit.num_samples or 0)
        if time.monotonic() - told_s >= TOLD_EVERY_S:
            told_s = time.monotonic()
            held = f" with {counted(samples, 'sample')}" if samples else ""
            say(f"listed so far: {counted(count, 'unit')}{held}")
        yield unit


def _refuse_itself(job: JobFile) -> None:
    """A Lance table that is read and written by one job would never be done."""
    if job.source.format != "lance":
        return
    mine = Tables.at(job.table, job.storage)
    if any(mine.is_at(named(uri)) for uri in job.source.uri):
        raise UserError("table and source.uri are the same table", "give the vectors a table of their own")


def plan_for(
    job: JobFile, tables: Tables, listing: Listing, latest: Ledger, redo: frozenset[str] = frozenset()
) -> Plan:
    """Looks at the table for ids whose turn has come, and at the places of units that are gone. Raises UserError for a
    trial that would replace more by less, and where turned pictures would lie again. `redo`: further units to do
    again."""
    redo |= units_to_redo(tables, latest, listing.units, gone_from(job.storage))
    plan = make_plan(listing.units, latest, redo)
    refuse_to_shrink(plan, job.source.limit)
    refuse_to_turn_back(tables, plan, job.source)
    return plan


def refuse_to_shrink(plan: Plan, limit: int | None) -> None:
    """With `source.limit` a run is a trial. On a table that has more of the same source it would replace its rows by
    fewer: UserError. A larger trial after a smaller one may replace it, and so does the whole source once the limit is
    taken out."""
    if limit is None:
        return
    sizes = {unit.unit_id: unit.num_samples or 0 for unit in plan.todo}
    for group in plan.replacements:
        there = sum(plan.ledger[unit_id].seen for unit_id in group.old)
        if there > sum(sizes[unit_id] for unit_id in group.new):
            raise UserError(
                f"source.limit is {limit:,}, but the table holds {counted(there, 'sample')} of "
                f"{plan.ledger[min(group.old)].uri} already",
                "take source.limit out, or give the trial a table of its own",
            )
