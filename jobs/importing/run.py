"""`clipmill import`: found → planned → proven → lease → healed → written and committed, piece by piece → index.

Running it again goes on where it stopped, takes in what changed, or does nothing. Rows enter by the committer alone.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor, tidy_side_tables
from clipmill.jobs.committing.duplicates import units_to_redo
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.importing.check import look
from clipmill.jobs.importing.ids import TakenIds
from clipmill.jobs.importing.model import Loaded, load_model
from clipmill.jobs.importing.places import Pictures
from clipmill.jobs.importing.proof import Proof
from clipmill.jobs.importing.prove import Prover
from clipmill.jobs.importing.request import ROW_NUMBER, Imported, ImportOptions, Say
from clipmill.jobs.importing.rows import Maker
from clipmill.jobs.importing.sources import Found, find
from clipmill.jobs.importing.work import Importer, Tally
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.running.collect import Collector, Totals
from clipmill.jobs.running.finish import finish_table
from clipmill.jobs.running.options import new_run_id
from clipmill.jobs.table import compat, ledger
from clipmill.jobs.table.errors import check_folder, writing
from clipmill.jobs.table.lancedb_function import embedding_functions_metadata
from clipmill.jobs.table.proof import PROVEN, UNPROVEN, is_unproven, marked, metadata
from clipmill.jobs.table.tables import Tables, new_id
from clipmill.jobs.table.tombstones import read_tombstones
from clipmill.schemas import columns
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage, refused_table
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.secrets import named
from clipmill.schemas.text.words import all_of, counted
from clipmill.schemas.unit.units import IMPORTED
from clipmill.workers.tag import load_vocabulary

COMMAND = "import"
SAY_EVERY_S = 10.0


def import_vectors(table: str, options: ImportOptions, storage: Storage, *, say: Say = lambda text: None) -> Imported:
    """Raises UserError where the files, the model or the table do not fit, LeaseHeld, LeaseLost, SourceChanged."""
    tables = Tables.at(table, storage)
    if why := refused_table(table):
        raise UserError(why, "give --to another name, such as s3://lake/db/images")
    return _Import(tables, options, storage, say).run()


@dataclass(slots=True)
class _Import:
    tables: Tables
    options: ImportOptions
    storage: Storage
    say: Say

    def run(self) -> Imported:
        began = time.monotonic()
        self.say(f"looking at {self.options.vectors}")
        found = find(self.options, self.storage)
        if any(map(self.tables.is_at, {piece.unit.uri for piece in found.pieces})):
            raise UserError(f"{self.options.vectors} is the table to be filled", "name other vectors, or another --to")
        if not found.chosen.id and self.options.names.id != ROW_NUMBER:
            self.say("no column of ids is known there: a row is called by its file and its number; --id names a column")
        rows = self.tables.open(missing_ok=True)
        plan = self._plan(found, ledger.read_ledger(self.tables))
        done = Imported(
            table=f"{self.tables.database}/{self.tables.name}",
            form=found.form,
            already_done=len(plan.done),
            dry_run=self.options.dry_run,
        )
        if rows is not None:
            _check_keep(rows.schema, found)
            if self.options.vocabulary:
                compat.check_vocabulary(rows.schema, load_vocabulary(self.options.vocabulary, self.storage))
        if rows is not None and self._nothing_to_do(rows, plan):
            note = f"nothing to do: {all_of(len(plan.done), 'file')} in the table"
            return replace(done, note=note, table_version=int(rows.version), seconds=_since(began))
        model = load_model(self.tables, rows, self.options, self.say)
        new = {unit.unit_id for unit in plan.todo}
        for piece in found.pieces:
            if piece.unit.unit_id in new and piece.rows:
                look(piece, found.chosen, model.engine.dim, self.storage, normalize=self.options.normalize)
        proof = self._proof(found, plan, rows, model)
        if self.options.dry_run:
            tally = self._dry(found, plan, rows, model, proof)
            return replace(_told(done, tally), proof=proof, seconds=_since(began))
        before = None if rows is None else columns.table_id(rows.schema)
        return replace(self._leased(found, model, proof, done, before), seconds=_since(began))

    def _plan(self, found: Found, latest: ledger.Ledger) -> Plan:
        """What is new or changed. Rows of files that are not among these stay; changed ones come first, so that an id
        is never there twice when it moves from one file to another."""
        units = [piece.unit for piece in found.pieces]
        redo = units_to_redo(self.tables, latest, units, lambda entry: False)
        plan = make_plan(units, latest, redo)
        replacing = frozenset().union(*(group.new for group in plan.replacements))
        todo = sorted(plan.todo, key=lambda unit: unit.unit_id not in replacing)
        return replace(plan, todo=tuple(todo), gone=(), moved={}, known={})

    def _nothing_to_do(self, rows: Any, plan: Plan) -> bool:
        if plan.todo or plan.replacements or heal.needs_healing(self.tables, plan.ledger):
            return False
        fingerprint = compat.stored_fingerprint(rows.schema)
        asked = (self.options.model.name, self.options.model.pretrained or "")
        if asked != (fingerprint.model, fingerprint.pretrained):
            return False  # only loading it tells
        return not (is_unproven(fingerprint) and self.options.prove and self.options.pictures)

    def _proof(self, found: Found, plan: Plan, rows: Any, model: Loaded) -> Proof:
        """Of the new files; of all, where that may show what was not shown so far."""
        new = {unit.unit_id for unit in plan.todo}
        all_of_it = rows is not None and is_unproven(compat.stored_fingerprint(rows.schema))
        pieces = [piece for piece in found.pieces if all_of_it or not new or piece.unit.unit_id in new]
        pictures = Pictures(found.chosen, self.options.pictures or "")
        prover = Prover(
            engine=model.engine,
            chosen=found.chosen,
            pictures=pictures,
            storage=self.storage,
            normalize=self.options.normalize,
            say=self.say,
        )
        proof = prover.prove(pieces, self.options.prove)
        self.say(f"{proof.state}: {proof.sentence}")
        if rows is None or proof.state != PROVEN:
            return proof
        listed = {piece.unit.unit_id for piece in found.pieces}
        others = [e for e in ledger.live(plan.ledger).values() if e.format == IMPORTED and e.unit_id not in listed]
        others = [e for e in others if e.unit_id not in plan.replaced]
        if all_of_it and others:
            why = f"{counted(len(others), 'file')} imported before, but not among these: {others[0].uri}"
            return replace(proof, state=UNPROVEN, why=why)
        return proof

    def _maker(self, found: Found, plan: Plan, rows: Any, schema: pa.Schema, model: Loaded, proof: Proof) -> Maker:
        wrong: dict[str, dict[int, str]] = {}
        for one in proof.wrong:
            wrong.setdefault(one.unit_id, {})[one.place] = str(one)
        return Maker(
            schema=schema,
            chosen=found.chosen,
            pictures=Pictures(found.chosen, self.options.pictures or ""),
            taken=TakenIds.of_table(rows, plan.replaced) if rows is not None else TakenIds(),
            normalize=self.options.normalize,
            tagger=model.tagger,
            wrong=wrong,
        )

    def _schema(self, found: Found, model: Loaded, proof: Proof) -> pa.Schema:
        fingerprint = marked(model.engine.fingerprint, found.form, proof.state, proof.sentence)
        schema = columns.rows_schema(
            dim=fingerprint.dim,
            keep=found.chosen.keep,
            fingerprint_json=fingerprint.to_json(),
            vocabulary_json=model.vocabulary_json,
            thumbnails=False,
        )
        return schema.with_metadata(embedding_functions_metadata(fingerprint))

    def _dry(self, found: Found, plan: Plan, rows: Any, model: Loaded, proof: Proof) -> Tally:
        schema = rows.schema if rows is not None else self._schema(found, model, proof)
        maker = self._maker(found, plan, rows, schema, model, proof)
        importer = Importer(maker=maker, storage=self.storage, dim=model.engine.dim)
        pieces = {piece.unit.unit_id: piece for piece in found.pieces}
        for unit in plan.todo:
            importer.take(pieces[unit.unit_id])
        return importer.tally

    def _leased(self, found: Found, model: Loaded, proof: Proof, done: Imported, before: str | None) -> Imported:
        tables = self.tables
        if not tables.exists("runs"):
            from clipmill.workers.store.storage import check_store

            check_folder(tables.database)
            check_store(tables.database, tables.storage)
        tables.ensure_side_tables()
        lease = Lease(tables, new_run_id(), COMMAND, ttl_s=self.options.lease_ttl_s)
        lease.take(on_wait=self.say)
        lease.keep(self.say)
        try:
            tables.ensure_side_tables()
            if tables.id() != before:
                raise UserError(
                    f"the table {done.table} was made or dropped while this import began", "run the command again"
                )
            with self._logged(lease, found, tables.id() or new_id()) as log:
                return log.ended(self._commit(found, model, proof, done, lease, log))
        finally:
            lease.release(self.say)

    @contextlib.contextmanager
    def _logged(self, lease: Lease, found: Found, table_id: str) -> Iterator["_Log"]:
        log = _Log(self.tables, lease.run, table_id)
        said = {**self.options.to_log(), "form": found.form, "storage": self.storage.model_dump(exclude_none=True)}
        log.write("import-started", json.dumps(plain(said)))
        try:
            yield log
        except BaseException as error:
            log.failed(error)
            raise

    def _commit(self, found: Found, model: Loaded, proof: Proof, done: Imported, lease: Lease, log: "_Log") -> Imported:
        tables, began = self.tables, time.monotonic()
        healed = 0
        if tables.exists():
            lease.fence()
            latest, healed = heal.heal(tables, Committer(tables, lease))
        else:
            schema = self._schema(found, model, proof)
            tables.create("", schema.with_metadata({**(schema.metadata or {}), columns.TABLE_ID_KEY: log.table_id}))
            lease.fence()
            latest = {}
        plan = self._plan(found, latest)
        if proof.state != PROVEN and plan.todo:
            self._mark(found, lease, proof)  # before the first row that nobody vouches for
        rows = tables.open()
        maker = self._maker(found, plan, rows, rows.schema, model, proof)
        maker.deleted = read_tombstones(tables)
        importer = Importer(
            maker=maker,
            storage=self.storage,
            dim=model.engine.dim,
            tables=tables,
            dataset=rows,
            run=lease.run,
            fingerprint=model.engine.fingerprint.weights_sha256[:16],
            table_id=log.table_id,
        )
        totals = self._write(found, plan, importer, Committer(tables, lease, hook=self.options.hook))
        rows_s = _since(began)
        if proof.state == PROVEN:
            self._mark(found, lease, proof)
        tidy_side_tables(tables, lease)
        version = int(tables.open().version)
        if self.options.index:
            version = finish_table(tables, lease, publish=False, say=self.say).newest
        return replace(
            _told(done, importer.tally),
            run=lease.run,
            already_done=len(plan.done),
            replaced_units=totals.retired_units,
            healed_units=healed,
            proof=proof,
            commits=totals.commits,
            table_version=version,
            rows_s=rows_s,
        )

    def _write(self, found: Found, plan: Plan, importer: Importer, committer: Committer) -> Totals:
        pieces = {piece.unit.unit_id: piece for piece in found.pieces}
        compactor = Compactor(self.tables, committer.lease)
        collector = Collector(committer, plan, self.options.commit, after_commit=compactor.added)
        collector.start()
        said_s = 0.0
        try:
            for number, unit in enumerate(plan.todo, 1):
                if collector.error is not None:
                    break
                if time.monotonic() - said_s >= SAY_EVERY_S:
                    said_s = time.monotonic()
                    self.say(f"file {number:,} of {len(plan.todo):,}: {unit.uri}")
                collector.offer(importer.take(pieces[unit.unit_id]))
        finally:
            collector.close()  # what is whole stays, whatever stopped us
        return collector.totals

    def _mark(self, found: Found, lease: Lease, proof: Proof) -> None:
        """What was shown of the vectors, where the table says something else."""
        rows = self.tables.open()
        theirs = compat.stored_fingerprint(rows.schema)
        if is_unproven(theirs) != (proof.state == PROVEN):
            return
        fingerprint = marked(theirs, found.form, proof.state, proof.sentence)
        lease.check()
        with writing(self.tables.uri()):
            rows.update_field_metadata({name: metadata(fingerprint) for name in ("vector", "caption_vector")})


@dataclass(frozen=True, slots=True)
class _Log:
    """An import's lines in the run log."""

    tables: Tables
    run: str
    table_id: str

    def write(self, event: str, detail: str) -> None:
        self.tables.log_run(self.run, COMMAND, event, detail, table_id=self.table_id)

    def failed(self, error: BaseException) -> None:
        with contextlib.suppress(OSError, ClipmillError):  # the error is what has to be told
            self.write("import-failed", named(error))

    def ended(self, done: Imported) -> Imported:
        self.write("import-finished", json.dumps(plain(done)))
        return done


def _told(done: Imported, tally: Tally) -> Imported:
    rejects = dict(sorted(tally.rejects.items()))
    return replace(
        done, units=tally.units, seen=tally.seen, rows=tally.rows, rejects=rejects, refused=list(tally.refused)
    )


def _check_keep(schema: pa.Schema, found: Found) -> None:
    """Kept columns are fixed when the table is made. Raises UserError."""
    for name, kind in found.chosen.keep.items():
        if name not in schema.names or schema.field(name).type != columns.KEEP_TYPES[kind]:
            has = f"has it as {schema.field(name).type}" if name in schema.names else "has no such column"
            raise UserError(
                f"--keep {name} is {kind}, and the table {has}",
                "kept columns are fixed when the table is made: leave it out, or use a new table",
            )


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
