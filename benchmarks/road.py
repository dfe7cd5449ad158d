"""A worker without Ray: engine, bench, table and units, put together as `workers.actor` and `jobs.running` do it."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipmill.schemas.job.config import JobFile
from clipmill.schemas.unit.receipts import Receipt
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers import process
from clipmill.workers.bench import Bench
from clipmill.workers.engine import Engine
from clipmill.workers.flow import Turns
from clipmill.workers.store.storage import connect
from clipmill.workers.tag import Tagger, load_vocabulary
from clipmill.workers.unit import UnitRun
from clipmill.workers.write import import_lance


@dataclass(slots=True, kw_only=True)
class Road:
    """Everything one actor holds. `startup_s`: until the model was loaded and had seen its first batch."""

    job: JobFile
    engine: Engine
    tagger: Tagger | None
    bench: Bench
    context: WorkContext
    tables: Any
    units: list[WorkUnit]
    startup_s: float

    @staticmethod
    def build(job: JobFile, *, device: str, threads: int) -> "Road":
        """Loads the model, lists the source, creates the table where it is missing. Raises UserError."""
        from clipmill.jobs.planning.surveying.survey import survey
        from clipmill.jobs.table.tables import Tables
        from clipmill.schemas import columns
        from clipmill.workers.load import load_engine

        process.one_blas_thread()
        process.short_turns()
        start = time.monotonic()
        import_lance()
        connect(job.source.uri[0], job.storage)
        spec = job.model.spec()
        engine = load_engine(spec, device=device, threads=threads, batch_size=job.workers.batch_size)
        if job.workers.batch_size == "auto":
            engine.tune()
        tagger = None
        if job.tags.vocabulary is not None:
            tagger = Tagger.build(load_vocabulary(job.tags.vocabulary, job.storage), engine, job.tags)
        engine.self_check(None)
        startup_s = time.monotonic() - start
        tables = Tables.at(job.table, job.storage)
        tables.ensure_side_tables()
        schema = columns.rows_schema(
            dim=engine.dim,
            keep=job.source.keep_types,
            fingerprint_json=engine.fingerprint.to_json(),
            vocabulary_json=tagger.metadata_json if tagger else None,
            thumbnails=job.thumbnails,
            more=pa.schema([columns.PHASH] if job.phash else []),
        )
        rows = tables.create("", schema)
        context = WorkContext(
            run="bench",
            rows_uri=tables.rows,
            rows_version=int(rows.version),
            rejects_uri=tables.uri("rejects"),
            source=job.source,
            storage=job.storage,
            limits=job.limits,
            phash=job.phash,
            units_in_flight=job.workers.units_in_flight,
            options=tables.options,
        )
        bench = Bench(
            engine=engine,
            tagger=tagger,
            pool=ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode"),
            decode_window=max(2 * engine.samples_at_once, 4 * threads),
            samples_at_once=engine.samples_at_once,
            turns=Turns(context.at_the_model(engine.callers)),
        )
        units = list(survey(job.source, job.storage, job.limits))
        return Road(
            job=job,
            engine=engine,
            tagger=tagger,
            bench=bench,
            context=context,
            tables=tables,
            units=units,
            startup_s=startup_s,
        )

    def run(self, units: Sequence[WorkUnit]) -> list[Receipt]:
        """The units through the one loop, as many at a time as the job says; nothing is committed."""
        with ThreadPoolExecutor(self.job.workers.units_in_flight) as lanes:
            return list(lanes.map(self.run_one, units))

    def run_one(self, unit: WorkUnit) -> Receipt:
        return UnitRun(Task(unit=unit, attempt=1), self.context, self.bench).run()
