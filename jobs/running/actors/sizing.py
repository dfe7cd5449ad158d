"""How many workers a run asks its cluster for, and of what shape."""

import math
from collections.abc import Callable, Sequence

from clipmill.jobs.cluster import local_node
from clipmill.jobs.cluster.nodes import node_id, nodes
from clipmill.jobs.cluster.patience import Patience
from clipmill.jobs.cluster.shape import Shape, check_fits, shape
from clipmill.jobs.planning.estimate import GPU_CORES, Worker, estimate
from clipmill.jobs.running.context import RunContext
from clipmill.schemas.job.config import Workers
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.units import WorkUnit

WORTH_S = 900.0  # a node takes minutes to start and a worker a minute to load: less work than this is not worth one
# Pictures a worker, of which a trial of batch sizes costs more than it brings: a second, against a few hundredths.
WORTH_A_TRIAL = 1000
_BYTES_A_SAMPLE = 50_000  # where nothing else is known


def few(todo: Sequence[WorkUnit], workers: int) -> bool:
    """Whether there is so little to do that the batch size may be any."""
    known = (unit.num_samples if unit.num_samples is not None else unit.size_bytes / _BYTES_A_SAMPLE for unit in todo)
    return sum(samples or WORTH_A_TRIAL * workers for samples in known) < WORTH_A_TRIAL * workers


def size(context: RunContext, todo: Sequence[WorkUnit]) -> tuple[Shape, int]:
    """What each worker asks for and how many there are to be, and how many `num: auto` may come to where nodes join
    (0: none do). Connected already. Raises UserError, NoWorkers."""
    workers, say = context.job.workers, context.progress.say
    if context.options.address is None:  # nothing joins a node that was started here
        found = nodes()
        one = shape(workers, found, len(todo))
        check_fits(one, found)
        return one, 0
    _see_a_node(workers, say)
    found = nodes()
    if workers.num != "auto":
        return shape(workers, found, len(todo)), 0
    grow = workers.max if workers.max != "auto" else _worth(context, todo, shape(workers, found, len(todo)), say)
    return shape(workers, found, len(todo), grow), grow


def _see_a_node(workers: Workers, say: Callable[[str], None]) -> None:
    """Where no node is up and the job leaves it to the cluster what a worker gets, ask for one node and look at it."""
    gpus = workers.gpus if workers.gpus != "auto" else 0.0
    if any(node.cpus >= 1 and node.gpus >= gpus for node in nodes()):
        return
    if workers.gpus != "auto" and (gpus or workers.cpus != "auto"):
        return  # what a worker asks for is known; with GPUs it takes its node's share of the CPUs
    import ray

    say("no node is up; asking for one, to see what nodes there have")
    patience = Patience(workers.wait_s, "1 CPU", say)
    asked = ray.remote(num_cpus=1, max_retries=3)(node_id).remote()
    while not local_node.wait(asked, 0.5):
        patience.look()


def _worth(context: RunContext, todo: Sequence[WorkUnit], one: Shape, say: Callable[[str], None]) -> int:
    """How many workers the work is enough for. Without work one is asked all the same whether it has the table's model,
    and nobody waits for more."""
    if not todo:
        return 0
    counts = [unit.num_samples for unit in todo]
    samples = sum(count for count in counts if count is not None)
    cores = GPU_CORES if one.own_share and one.threads == 1 else one.threads
    expected = estimate(context.job, context.tables, Worker(gpus=one.gpus, cores=cores))
    if None in counts or expected is None or not expected.samples_per_s:
        most = math.ceil(len(todo) / context.job.workers.units_in_flight)
        units = counted(len(todo), "unit is", "units are")
        why = f"the {units} work for no more at once; how long they take is not known"
    else:
        work_s = samples / expected.samples_per_s
        most = min(len(todo), math.ceil(work_s / WORTH_S))
        why = f"{work_s / 3600:.1f} hours of work for one, {WORTH_S / 60:.0f} minutes or more for each"
        why += f" ({expected.basis})"
    say(f"up to {counted(most, 'worker')} if nodes join: {why}; workers.max sets another number")
    return most
