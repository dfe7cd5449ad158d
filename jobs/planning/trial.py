"""`source.limit`: the first samples of a source, to see what comes of them before the whole is paid for."""

from clipmill.jobs.planning.plan import Plan
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted


def refuse_to_shrink(plan: Plan, limit: int | None) -> None:
    """A trial on a table that has more of the same source would replace its rows by fewer: UserError. A larger trial
    after a smaller one may replace it, and so does the whole source once the limit is taken out."""
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
