"""The Ray actor: one per GPU (or per machine without one), several units at a time. The only ray import of workers."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import ray

from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage, Tags
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.model import ModelSpec
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.tasks import Task, UnitProgress, WorkContext, WorkerFacts
from clipmill.workers import probe, process
from clipmill.workers.bench import Bench
from clipmill.workers.engine import Engine
from clipmill.workers.fill import FillRun
from clipmill.workers.flow import Turns
from clipmill.workers.load import import_code, load_engine
from clipmill.workers.origin import origin
from clipmill.workers.store.storage import connect
from clipmill.workers.tag import Tagger, unknown_labels
from clipmill.workers.unit import UnitRun
from clipmill.workers.write import import_lance


class EmbedWorker:
    """Owns a model and turns units into receipts. Plain Python: `remote_worker` makes an actor of it."""

    def __init__(self) -> None:
        """Nothing that can fail: an error here would reach the driver as text, from a method as an exception."""
        self._imported = threading.Event()  # or there is an error
        self._loaded = threading.Event()
        self._engine: Engine | Exception | None = None
        self._spec: ModelSpec | None = None
        self.threads = 1
        self.context: WorkContext | None = None
        self.bench: Bench | None = None
        self._runs: dict[str, UnitRun] = {}

    def place(self) -> str:
        """The node's id; answered at once, so that the driver knows that there was room."""
        return str(ray.get_runtime_context().get_node_id())

    def load(
        self,
        spec: ModelSpec,
        threads: int,
        batch_size: int | Literal["auto", "untried"],
        expected_code: str,
        *,
        device: str = "auto",
        share_of_gpus: float = 0.0,
    ) -> None:
        """Check whose code this is, then load the model; `threads` serve decoding and the model's CPU kernels.

        `batch_size`: found by trying where it is auto; untried: the device's usual one.
        `share_of_gpus`: take the share of this node's CPUs that so many of its GPUs are, where that is more threads.
        `device`: auto (the GPU that Ray gave this actor, else the CPU) or cpu, which hides the GPUs of the node.

        An error is kept for whoever needs the engine. Raised here too, nobody might read it, and Ray would print it.
        """
        self._spec, self.threads = spec, max(1, threads, _share_of_cpus(share_of_gpus) if share_of_gpus else 0)
        version, digest, path = origin()
        if device == "cpu":  # also for what this process starts; torch is not imported yet
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        try:
            if digest != expected_code:
                raise UserError(
                    f"the cluster runs clipmill {version} from {path}, which is not the code of this command",
                    "install the same clipmill on every node, and start Ray outside checkouts of another one",
                )
            process.one_blas_thread()
            with process.without_collector():
                import_code(spec)
                self._imported.set()
                process.short_turns()
                process.freeze_imports()
                self._engine = load_engine(
                    spec,
                    device=device,
                    threads=self.threads,
                    batch_size=batch_size if isinstance(batch_size, int) else "auto",
                    tune=batch_size == "auto",
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised by `engine`
            self._engine = error
        finally:
            self._imported.set()
            self._loaded.set()

    def get_ready(self, uri: str, storage: Storage) -> None:
        """What the first unit would wait for with a core idle, done while the model loads: not while its code is
        imported, because imports are Python, and two threads of it get no further than one."""
        self._imported.wait()
        import_lance()
        with contextlib.suppress(ClipmillError):  # a store that cannot be reached is for the unit to report
            connect(uri, storage)

    def facts(self) -> WorkerFacts:
        fingerprint = self.engine.fingerprint
        return WorkerFacts(
            fingerprint_json=fingerprint.to_json(),
            batch_size=self.engine.batch_size,
            callers=self.engine.callers,
            device=fingerprint.provenance.get("device", "cpu"),
            threads=self.threads,
        )

    @property
    def engine(self) -> Engine:
        self._loaded.wait()  # methods run in several threads
        if isinstance(self._engine, Exception):
            raise self._engine
        assert self._engine is not None
        return self._engine

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        return self.engine.self_check(reference)

    def label_vectors(self, vocabulary: Vocabulary, tags: Tags) -> tuple[str, Any, list[str]]:
        """(metadata JSON of the tags column, label vectors float32 (L, D), labels with words that the model does not
        know), computed by one actor for all."""
        tagger = Tagger.build(vocabulary, self.engine, tags)
        return tagger.metadata_json, tagger.vectors_LD, unknown_labels(vocabulary, self.engine)

    def prepare(
        self,
        context: WorkContext,
        tagging: tuple[Vocabulary, Tags] | None,
        labels_LD: Any,
        reference: dict[str, Any],
    ) -> str:
        """Take on a run: check the vectors against the reference, get the labels ready; returns the node's id.

        `labels_LD` comes from another actor's `label_vectors`; None where nothing is tagged.
        """
        self.engine.self_check(reference)
        tagger = None
        if tagging is not None:
            tagger = Tagger.from_vectors(tagging[0], labels_LD, self.engine.fingerprint, tagging[1])
        process.freeze_garbage()
        self.context = context
        self.bench = Bench(
            engine=self.engine,
            tagger=tagger,
            pool=ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="decode"),
            decode_window=max(2 * self.engine.samples_at_once, 4 * self.threads),
            samples_at_once=self.engine.samples_at_once,
            # A GPU is only kept busy by several at once.
            turns=Turns(context.at_the_model(self.engine.callers), one_first=self.facts().device == "cpu"),
        )
        return self.place()

    def run_unit(self, task: Task) -> Receipt:
        assert self.context is not None, "prepare first"
        assert self.bench is not None
        kind = FillRun if self.context.fill else UnitRun
        run = self._runs[task.unit.unit_id] = kind(task, self.context, self.bench)
        try:
            return run.run()
        finally:
            del self._runs[task.unit.unit_id]

    def progress(self, unit_id: str) -> UnitProgress:
        """Of a unit that is at work. One that is not has just ended, and its receipt is on its way: it waits."""
        run = self._runs.get(unit_id)
        return run.progress if run is not None else UnitProgress(waits=True)

    def find_poison(self, task: Task) -> tuple[int, str] | None:
        """Go through the unit sample by sample in a child process: (ordinal, reason) of the one it dies at."""
        assert self.context is not None, "prepare first"
        assert self._spec is not None, "load first"
        return probe.find_poison(task, self.context, self._spec)


def _share_of_cpus(gpus: float) -> int:
    """The CPUs of this node that go with so many of its GPUs."""
    here = ray.get_runtime_context().get_node_id()
    mine: dict[str, float] = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == here), {})
    all_gpus = mine.get("GPU", 0.0)
    return int(mine.get("CPU", 0.0) * gpus / all_gpus) if all_gpus else 0


def remote_worker(*, num_cpus: float, num_gpus: float, units_in_flight: int) -> Any:
    """The actor class with its resources. No restarts: the driver decides what a death means.

    Two more calls than units may run at once, so that a question is never queued behind them.
    """
    return ray.remote(EmbedWorker).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_concurrency=units_in_flight + 2,
        max_restarts=0,
        max_task_retries=0,
    )
