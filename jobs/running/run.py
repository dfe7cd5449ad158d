"""One run of the main job: its steps, in their order. The modules beside this one hold them."""

from collections.abc import Sequence

from clipmill.jobs.running.actors.workforce import Workforce, loaded_workforce
from clipmill.jobs.running.closing import close
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.log import RunLog
from clipmill.jobs.running.opening import claim, open_table
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.running.work import Work
from clipmill.schemas.unit.units import WorkUnit


def run_units(context: RunContext, todo: Sequence[WorkUnit]) -> Summary:
    """Connect, load the model, and only then write anything: a model that cannot be loaded leaves no trace.
    `todo`: what seems to be there to do; under the lease it is planned again."""
    with loaded_workforce(context, todo) as force:
        claim(context, force)
        return _logged(context, force)


def _logged(context: RunContext, force: Workforce) -> Summary:
    """The run with its lines in the log, whatever ends it."""
    log = RunLog.begin(context)
    work: Work | None = None
    try:
        opened = open_table(context, force, log.table_id)
        work = Work(context, force, context.plan(opened.latest))
        work.run()
        summary = close(context, force, opened, work)
    except BaseException as error:
        if work is not None:
            work.say_what_stays()
        log.failed(error)
        raise
    log.ended(summary)
    return summary
