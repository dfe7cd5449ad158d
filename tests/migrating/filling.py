"""A table of pictures and a fill of it without Ray: the same reading, decoding, writing and committing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.fill import Filler, no_hook
from clipmill.jobs.migrating.fill_plan import FillPlan, plan_fill
from clipmill.jobs.table import ledger, sets
from clipmill.jobs.table.originals import Originals
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import ORIENTATION_FIELD, rows_schema, set_fields, table_id
from clipmill.schemas.job.config import Commit, Limits, Source, Storage
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.receipts import LedgerState, Receipt
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.fill import FillRun
from clipmill.workers.store.storage import head
from clipmill.workers.stub import StubEngine
from clipmill.workers.unit import UnitRun
from tests.build import picture
from tests.committed import entry_of, take_lease
from tests.conftest import S3

STORAGE = Storage()
SLUG = "stub_16"
NEVER = Commit.model_validate({"every_rows": 10**9, "every_s": 3600})


def members(seeds: range, *, pad: int = 0) -> list[tuple[str, bytes]]:
    """A picture and a caption for each seed; `pad`: bytes of another member between them."""
    found: list[tuple[str, bytes]] = []
    for seed in seeds:
        found += [(f"{seed:05d}.jpg", picture(seed)), (f"{seed:05d}.txt", f"picture {seed}".encode())]
        found += [(f"{seed:05d}.bin", bytes(pad))] if pad else []
    return found


class World:
    """Tars, a table of `stub:8`, and a set of `stub:16` beside it: in a folder, or in a bucket."""

    def __init__(self, place: Path | S3, **source: Any) -> None:
        self.place = place
        self.folder, root, self.storage = (
            (place, str(place), STORAGE) if isinstance(place, Path) else (Path(), place.uri, place.storage)
        )
        self.tables = Tables.at(f"{root}/db/images", self.storage)
        self.tables.ensure_side_tables()
        self.source = Source.model_validate(
            {"format": "webdataset", "uri": f"{root}/*.tar", "caption": "txt", **source}
        )
        old = StubEngine.from_name("stub:8")
        schema = rows_schema(
            dim=8, keep={}, fingerprint_json=old.fingerprint.to_json(), vocabulary_json=None, thumbnails=False
        )
        self.tables.create("", schema if self.source.orientation is None else schema.append(ORIENTATION_FIELD))
        self.table_id = table_id(self.tables.open().schema)
        self.old, self.new = self._bench(old), self._bench(StubEngine.from_name("stub:16"))
        self.runs = 0

    @staticmethod
    def _bench(engine: StubEngine) -> Bench:
        return Bench(engine=engine, tagger=None, pool=ThreadPoolExecutor(2), samples_at_once=4)

    @property
    def uri(self) -> str:
        """Of the table."""
        return f"{self.tables.database}/images"

    @property
    def fingerprint(self) -> Fingerprint:
        return self.new.engine.fingerprint

    def context(self, run: str, *, fill: str = "") -> WorkContext:
        return WorkContext(
            run=run,
            rows_uri=self.tables.rows,
            rows_version=int(self.tables.open().version),
            rejects_uri=self.tables.uri("rejects"),
            source=self.source,
            storage=self.storage,
            limits=Limits(),
            table_id=self.table_id,
            fill=fill,
            options=self.tables.options,
        )

    def put(self, name: str, data: bytes) -> str:
        if not isinstance(self.place, Path):
            return self.place.put(name, data)
        (self.place / name).write_bytes(data)
        return str(self.place / name)

    def embed(self, name: str, data: bytes, *, replaces: str = "", bench: Bench | None = None) -> str:
        """Write the tar, embed and commit it; returns its unit's id."""
        found = head(self.put(f"{name}.tar", data), self.storage)
        self.runs += 1
        unit_id = f"{name}{self.runs}"
        unit = WorkUnit(
            unit_id=unit_id, format="webdataset", uri=found.uri, etag=found.etag, size_bytes=found.size_bytes
        )
        lease = take_lease(self.tables, f"embed{self.runs}")
        receipt = UnitRun(Task(unit=unit, attempt=1), self.context(lease.run), bench or self.old).run()
        entry = entry_of(unit, receipt.run, receipt.seen, rejected=receipt.num_rejected)
        entries = [replace(entry, content_hash=receipt.content_hash)]
        latest = ledger.read_ledger(self.tables)
        if replaces:
            entries.append(replace(latest[replaces], state=LedgerState.RETIRED, table_version=0))
        Committer(self.tables, lease).commit(
            entries,
            receipt.fragments,
            reject_fragments=receipt.reject_fragments,
            remove_units=[replaces] if replaces else [],
        )
        lease.release()
        return unit_id

    def plan(self) -> FillPlan:
        rows = self.tables.open()
        return plan_fill(rows, SLUG, Originals(self.tables), sets.failures(self.tables, rows, self.fingerprint))

    def add_set(self) -> None:
        fields = set_fields(SLUG, dim=16, fingerprint_json=self.fingerprint.to_json(), vocabulary_json=None)
        sets.add_set(self.tables, SLUG, fields, self.fingerprint)

    def fill(
        self,
        *,
        hook: Callable[[str], None] = no_hook,
        between: Callable[[], None] = lambda: None,
        run: str = "fill",
        each: bool = False,
    ) -> list[Receipt]:
        """One pass: every fragment is filled, `between` happens, then one commit (with `each`: one per fragment)."""
        lease = Lease(self.tables, run, "reembed", key=FILL_KEY)
        lease.take(poll_s=0.05)
        receipts: list[Receipt] = []
        try:
            hook("before_columns")
            self.add_set()
            hook("after_columns")
            filler = Filler(self.tables, lease, SLUG, NEVER, hook=hook)
            plan = self.plan()
            filler.expect({} if each else plan.shared)
            for unit in plan.units:
                made = FillRun(Task(unit=unit, attempt=1), self.context(run, fill=SLUG), self.new).run()
                receipts.append(made)
                filler.offer(made)
                if each:
                    filler.commit()
            between()
            filler.commit()
        finally:
            lease.release()  # stands for the term that runs out
        return receipts

    def coverage(self) -> sets.Coverage:
        return sets.coverage(self.tables, self.tables.open(), SLUG)

    def rows(self) -> dict[str, dict[str, Any]]:
        """By the number in the name."""
        found = self.tables.open().to_table().to_pylist()
        return {row["uri"].rpartition("#")[2].removesuffix(".jpg"): row for row in found}
