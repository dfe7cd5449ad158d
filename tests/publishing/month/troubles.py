"""What goes wrong, or is changed by a person, on a night of the month; and which night has what."""

import pytest

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.migrating import promote as promoting
from clipmill.jobs.migrating.drop import drop
from clipmill.jobs.migrating.promote import How, back, promote
from clipmill.jobs.migrating.reembed import reembed
from clipmill.jobs.migrating.reembed_plan import ReembedOptions
from clipmill.jobs.migrating.retag import RetagOptions, retag
from clipmill.jobs.publishing.night import Night
from clipmill.jobs.publishing.publish import publish, rollback
from clipmill.schemas.errors import EXIT_GATE_REFUSED, LeaseHeld
from clipmill.schemas.job.config import Model
from tests.integration import help
from tests.publishing.driver import ANY_OVERLAP
from tests.publishing.month.month import Month
from tests.publishing.month.onlookers import onlookers
from tests.throttling import Throttle

# Of another dimension, and of nearly the same size: the last nights' bytes are compared with those of the first.
OTHER = "stub:17"
ANIMALS = "name: animals\nlabels: [cat, dog, cow, hen, fox, owl, bee, ant, elk, eel, emu, yak]\n"
SHARE = 0.25  # of the requests, while the store throttles


def killed(month: Month, step: str) -> Night:
    month.driver("nightly", f"{step}:1")
    return month.night()


def throttled(month: Month) -> Night:
    """The night's own requests and those of more readers meet 503 SlowDown."""
    with Throttle(month.shards.s3.endpoint, SHARE).running() as store:
        job = month.job(endpoint=store.endpoint)
        with onlookers(job.table, job.storage) as watching:
            found = month.night(endpoint=store.endpoint)
    assert min(store.refused[method] for method in ("GET", "PUT", "HEAD")) > 0, store.refused
    assert sum(store.refused.values()) > 30, store.refused
    assert watching.looks, "nobody could read while the store throttled"
    return found


def clock_ahead(month: Month) -> Night:
    """The driver's clock is an hour ahead of the next night's, and of whoever takes it back by hand in between."""
    month.driver("nightly", CLOCK_AHEAD_H="1")
    return month.night()


def taken_back(month: Month) -> Night:
    """By hand, right after a night whose clock was ahead; the next night leaves that alone until somebody publishes."""
    before = month.note_published()
    month.driver("nightly", CLOCK_AHEAD_H="1")
    job = month.job()
    done = rollback(job.table, job.storage, to="previous", say=month.told.append)
    assert done.version == before
    assert [gate.name for gate in month.night().refused] == ["held"]
    publish(job.table, job.storage, force=False, say=month.told.append)
    assert month.note_published() != before
    return month.night()


def golden_worse(month: Month) -> Night:
    """Exit code 4, and readers stay where they are. It is mended before the next night."""
    before = month.note_published()
    month.shards.spoil_golden()
    code, found = month.by_command()
    assert (code, [gate.name for gate in found.refused]) == (EXIT_GATE_REFUSED, ["golden"]), (code, found)
    assert (found.live_after, month.note_published()) == (before, before)
    return found


def lease_held(month: Month) -> Night:
    other = Lease(help.tables(month.job()), "somebody-else", "embed", ttl_s=2.0)
    other.take()
    other.keep()
    try:
        with pytest.raises(LeaseHeld):
            month.night()
    finally:
        other.release()
    return month.night()


def new_vocabulary(month: Month) -> Night:
    """Killed inside the switch; the next call goes on, and the night publishes it."""
    file = month.shards.s3.put("animals.yaml", ANIMALS.encode())
    month.driver(f"retag:{file}", "switch:1")
    job = month.job()
    retag(job.table, RetagOptions(vocabulary=file), job.storage)
    month.vocabulary = file
    return month.night()


def _how(month: Month) -> How:
    return How(say=month.told.append, hook=promoting.no_hook, settle_s=0.0)


def _fill(month: Month, model: str) -> None:
    job = month.job()
    done = reembed(job.table, job.storage, ReembedOptions(model=Model(name=model), index=month.indexed))
    assert (done.left, done.failed) == (0, 0), done


def new_model(month: Month) -> Night:
    """After the night, when the rows are what the source has: the fill and the promotion are killed once each."""
    month.night()
    month.driver(f"reembed:{OTHER}", "before_fill:1")
    _fill(month, OTHER)
    month.driver("promote:stub_17", "after_rename:1")
    job = month.job()
    promote(job.table, "stub_17", job.storage, ANY_OVERLAP, _how(month))
    month.model = OTHER
    month.note_published()
    return month.night()


def old_model(month: Month) -> Night:
    """Back to the model before; rows that came since are filled first."""
    month.night()
    _fill(month, "stub")
    month.driver("back", "after_detach:1")
    back(month.job().table, month.job().storage, _how(month))
    month.model = "stub"
    month.note_published()
    return month.night()


def new_model_for_good(month: Month) -> Night:
    """The old set is dropped."""
    month.night()
    _fill(month, OTHER)
    job = month.job()
    promote(job.table, "stub_17", job.storage, ANY_OVERLAP, _how(month))
    month.model = OTHER
    month.note_published()
    month.driver("drop:stub", "before_drop:1")
    drop(job.table, "stub", job.storage, say=month.told.append)
    return month.night()
