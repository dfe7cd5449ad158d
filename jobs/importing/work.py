"""One piece at a time: read, checked, written where nobody sees it yet, and handed to the committer as a receipt."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipmill.jobs.importing.read import read
from clipmill.jobs.importing.rows import Maker
from clipmill.jobs.importing.sources import Piece
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.rejects import Reject
from clipmill.workers.write import REJECTS_PER_FRAGMENT, reject_table, write_reject_fragments, write_rows

NAMED = 20  # rejects that the summary spells out


@dataclass(slots=True)
class Tally:
    """What became of the rows so far."""

    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def add(self, rows: int, rejects: list[Reject]) -> None:
        self.seen += rows + len(rejects)
        self.rows += rows
        for one in rejects:
            self.rejects[one.reason] = self.rejects.get(one.reason, 0) + 1
            if len(self.refused) < NAMED:
                self.refused.append(
                    f"{one.id}: {one.reason} ({one.detail})" if one.detail else f"{one.id}: {one.reason}"
                )


@dataclass(slots=True, kw_only=True)
class Importer:
    """`dataset`: the rows at the version that fragments are written against; None: a dry run, which writes nothing."""

    maker: Maker
    storage: Storage
    dim: int
    tally: Tally = field(default_factory=Tally)
    tables: Tables | None = None
    dataset: Any = None
    run: str = ""
    fingerprint: str = ""
    table_id: str = ""

    def take(self, piece: Piece) -> Receipt:
        """Raises UserError, SourceChanged, and what the stores raise."""
        pending: list[Reject] = []
        counts: dict[str, int] = {}
        fragments: list[str] = []
        written = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal written
            for window in read(piece, self.maker.chosen, self.dim, self.storage):
                if not len(window):
                    continue
                batch, rejects = self.maker.make(piece, window)
                self.tally.add(batch.num_rows, rejects)
                written += batch.num_rows
                for one in rejects:
                    counts[one.reason] = counts.get(one.reason, 0) + 1
                pending.extend(rejects)
                if len(pending) >= REJECTS_PER_FRAGMENT:
                    fragments.extend(self._write_rejects(piece, pending))
                    pending.clear()
                if batch.num_rows:
                    yield batch

        rows = self._write(batches())
        if pending:
            fragments.extend(self._write_rejects(piece, pending))
        self.tally.units += 1
        receipt = Receipt(
            unit_id=piece.unit.unit_id,
            run=self.run,
            attempt=1,
            outcome=Outcome.DONE,
            seen=written + sum(counts.values()),
            written=written,
            rejected=counts,
            fragments=rows,
            reject_fragments=tuple(fragments),
        )
        receipt.check_balance()
        return receipt

    def _write(self, batches: Iterator[pa.RecordBatch]) -> tuple[str, ...]:
        if self.tables is None:
            for _ in batches:
                pass
            return ()
        return write_rows(batches, self.dataset, self.tables.options)

    def _write_rejects(self, piece: Piece, rejects: list[Reject]) -> list[str]:
        if self.tables is None:
            return []
        table = reject_table(
            rejects,
            unit_id=piece.unit.unit_id,
            run=self.run,
            attempt=1,
            fingerprint=self.fingerprint,
            table_id=self.table_id,
        )
        return write_reject_fragments(table, self.tables.uri("rejects"), self.tables.options)
