"""The actors of a run: loaded in parallel, checked, and attached to the run before their first unit."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs.cluster import connect as cluster
from clipmill.jobs.cluster import local_node
from clipmill.jobs.cluster.patience import Patience
from clipmill.jobs.cluster.shape import Shape
from clipmill.jobs.running.actors.deaths import first_line, is_node_loss
from clipmill.jobs.running.actors.interrupts import noting_interrupts
from clipmill.jobs.running.actors.sizing import few, size
from clipmill.jobs.running.actors.slots import Slot
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import JobFile, Tags
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.tasks import WorkContext, WorkerFacts
from clipmill.schemas.unit.units import WorkUnit

LOADING_NOTE_S = 30.0


@dataclass(slots=True, kw_only=True, eq=False)
class Recruit:
    """An actor and its first calls: `placed` answers as soon as the cluster has room for it, with its node's id;
    `facts` when the model is loaded."""

    actor: Any
    placed: Any
    facts: Any = None


@dataclass(slots=True, kw_only=True)
class Workforce:
    """Starts actors that all get the same model, labels, reference vectors and context. All are asked for at once;
    those that the cluster has no room for wait, and are what an autoscaler starts nodes for.

    `grow`: how many `workers.num: auto` may come to on a cluster that grows; 0 where none does. `is_short`: there is so
    little to do that `workers.batch_size: auto` is not tried.
    """

    job: JobFile
    shape: Shape
    grow: int = 0
    is_short: bool = False
    recruits: list[Recruit] = field(default_factory=list)
    vocabulary: Vocabulary | None
    say: Callable[[str], None]
    vocabulary_json: str | None = None
    facts: WorkerFacts = field(init=False)  # once they are loaded
    fingerprint: Fingerprint = field(init=False)
    # Their errors come by other calls too. Ray prints a traceback for one whose reference is dropped unread.
    _calls: list[Any] = field(default_factory=list)
    _labels: Any = None
    _reference: Any = None
    _context: Any = None

    def start(self) -> None:
        """Create the actors and let all of them load their model at once."""
        for _ in range(self.shape.num):
            self._recruit()

    def _recruit(self) -> Recruit:
        new = self._new_actor()
        new.facts = new.actor.facts.remote()
        self._calls.append(new.facts)
        return new

    def _new_actor(self) -> Recruit:
        from clipmill.workers.actor import remote_worker
        from clipmill.workers.origin import origin

        remote = remote_worker(
            num_cpus=self.shape.cpus,
            num_gpus=self.shape.gpus,
            units_in_flight=self.job.workers.units_in_flight,
        )
        actor = remote.remote()
        new = Recruit(actor=actor, placed=actor.place.remote())
        self._calls += [
            actor.load.remote(
                self.job.model.spec(),
                self.shape.threads,
                "untried" if self.is_short and self.job.workers.batch_size == "auto" else self.job.workers.batch_size,
                origin()[1],
                device=self.shape.device,
                share_of_gpus=self.shape.gpus if self.shape.own_share else 0.0,
            ),
            actor.get_ready.remote(self.job.source.uri[0], self.job.storage),
        ]
        self.recruits.append(new)
        return new

    def patience(self) -> Patience:
        return Patience(self.job.workers.wait_s, self.shape.need, self.say)

    def wait_for_facts(self) -> None:
        """What the first actor says that has its model; another takes the place of one whose node goes meanwhile. One
        that dies by itself ends the run only where it is the last, or the limits.max_attempts-th that does. Raises
        UserError for a model that cannot be loaded, NoWorkers where the cluster has room for none in time."""
        import ray

        died = lost = 0
        most = self.job.limits.max_attempts
        while True:
            first = self._first_answer()
            try:
                self.facts = _unwrapped(first.facts)
                self.fingerprint = Fingerprint.from_json(self.facts.fingerprint_json)
                self.recruits.remove(first)
                self.recruits.insert(0, first)
                return
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                local_node.check()
                self.recruits.remove(first)
                is_lost = is_node_loss(error)
                died, lost = died + (not is_lost), lost + is_lost
                # A node takes all of its workers along, and for a while Ray gives those that follow a place on it too.
                if died >= most or lost >= most * (self.shape.num + 1) or not (is_lost or self.recruits):
                    raise _died_loading(error) from None
            if is_lost:
                self.say("the node of a worker is gone; another one loads the model")
                self._recruit()

    def _first_answer(self) -> Recruit:
        """The one whose `facts` are there first, or say why there are none."""
        import ray

        patience, noted_s = self.patience(), time.monotonic()
        asked = {recruit.facts: recruit for recruit in self.recruits}
        while not (ready := ray.wait(list(asked), num_returns=1, timeout=0.5)[0]):
            local_node.check()
            if not ray.wait([recruit.placed for recruit in self.recruits], num_returns=1, timeout=0)[0]:
                patience.look()
                noted_s = time.monotonic()
            elif time.monotonic() - noted_s >= LOADING_NOTE_S:
                noted_s = time.monotonic()
                self.say("waiting for a worker to load its model; it has its place")
        return asked[ready[0]]

    def label_vectors(self) -> None:
        """Computed by one actor, kept in the object store for all of them."""
        import ray

        if self.vocabulary is None:
            return
        call = self.recruits[0].actor.label_vectors.remote(self.vocabulary, self.job.tags)
        self.vocabulary_json, vectors_LD, unknown = _get(call)
        if unknown:
            shown = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            self.say(
                f"{self.job.model.name} was never trained on words of {counted(len(unknown), 'label')} of the "
                f"vocabulary '{self.vocabulary.name}' ({shown}): those tags mean nothing"
            )
        self._labels = ray.put(vectors_LD)

    def self_check(self, tables: Tables, run: str) -> None:
        """Reference vectors of the bundled pictures: read from `__runs`, or computed once and kept there."""
        import ray

        key = json.dumps(self.fingerprint.identity(), sort_keys=True)
        known = _stored_reference(tables, key)
        reference = _get(self.recruits[0].actor.self_check.remote(known))
        if known is None:
            tables.log_run(run, "self-check", "reference", json.dumps({"fingerprint": key, "reference": reference}))
        self._reference = ray.put(reference)

    def attach(self, context: WorkContext) -> list[Slot]:
        """Slots of the actors there are, of which one has answered: units can be handed out from now on. What it
        answered, or died of, is for the dispatcher to say."""
        import ray

        self._context = context
        slots = [self._slot(recruit) for recruit in self.recruits]
        while not ray.wait([slot.ready for slot in slots], num_returns=1, timeout=0.5)[0]:
            local_node.check()
        return slots

    def add(self) -> Slot:
        """One more actor, for a dead one or a node that joined."""
        return self._slot(self._new_actor())

    def _slot(self, recruit: Recruit) -> Slot:
        ready = recruit.actor.prepare.remote(self._context, self._tagging(), self._labels, self._reference)
        return Slot(actor=recruit.actor, ready=ready, placed=recruit.placed)

    def _tagging(self) -> tuple[Vocabulary, Tags] | None:
        return (self.vocabulary, self.job.tags) if self.vocabulary is not None else None

    def stop(self) -> None:
        import ray

        if not ray.is_initialized():  # the node died; asking for anything would start another one
            return
        for call in self._calls:
            with contextlib.suppress(Exception):  # read, and told by whoever needed the engine
                ray.get(call, timeout=0)
        for recruit in self.recruits:
            ray.kill(recruit.actor, no_restart=True)


@contextlib.contextmanager
def loaded_workforce(context: RunContext, todo: Sequence[WorkUnit]) -> Iterator[Workforce]:
    """Connected to the job's cluster, its model loaded, and nothing written. No interrupt is lost while Ray starts.
    `todo`: for these units."""
    options, progress = context.options, context.progress
    progress.phase(f"{counted(len(todo), 'unit')}; starting workers")
    with (
        noting_interrupts() as check_interrupt,
        cluster.connected(options.address, num_cpus=options.num_cpus),
    ):
        check_interrupt()
        shape, grow = size(context, todo)
        force = Workforce(
            job=context.job,
            shape=shape,
            grow=grow,
            is_short=few(todo, shape.num),
            vocabulary=context.vocabulary,
            say=progress.phase,
        )
        force.start()
        try:
            lance_module()  # imported while the workers import theirs: a new table has not needed it yet
            force.wait_for_facts()
            check_interrupt()
            yield force
        finally:
            force.stop()


def _get(ref: Any) -> Any:
    """`_unwrapped`, and a worker that died is one clear sentence."""
    import ray

    try:
        local_node.wait(ref)
        return _unwrapped(ref)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        local_node.check()
        raise _died_loading(error) from None


def _unwrapped(ref: Any) -> Any:
    """ray.get, with the worker's own exception instead of Ray's wrapping."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, BaseException) else error) from None


def _died_loading(error: BaseException) -> ClipmillError:
    if is_node_loss(error):
        return ClipmillError(
            f"the node of a worker went before its first unit: {first_line(error)}",
            "run the same command again; where that does not help, see why the cluster's nodes go",
        )
    return ClipmillError(
        f"a worker died while it loaded the model: {first_line(error)}",
        "too little memory is the usual reason; a smaller model or batch_size may fit",
    )


def _stored_reference(tables: Tables, key: str) -> dict[str, Any] | None:
    for row in tables.open("runs").to_table(columns=["detail"], filter="event = 'reference'").to_pylist():
        stored = json.loads(row["detail"])
        if stored["fingerprint"] == key:
            reference: dict[str, Any] = stored["reference"]
            return reference
    return None
