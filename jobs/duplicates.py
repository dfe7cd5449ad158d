"""One id, one row: the later of two samples with the same id becomes the reject `duplicate_id`.

Ids that are URIs of members or objects are unique by construction. Ids from keys, contents and columns are not, nor
are URIs that a manifest may list twice; those are checked within the commit and against the table's id index.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.commit import units_filter
from jobs.ledger import Ledger, live
from jobs.tables import Tables
from schemas.columns import table_id
from schemas.config import Source
from schemas.receipts import LedgerState, Receipt
from schemas.rejects import Reason, Reject

LOOKUP = 5_000  # ids per query of the id index


def can_repeat(source: Source) -> bool:
    """Whether two samples of this source may come with one id."""
    return source.id != "uri" or source.format in ("manifest", "parquet")


@dataclass(slots=True)
class Deduplicator:
    """Called by the collector before a commit. `pinned_version` is the one the run's fragments are written against."""

    tables: Tables
    pinned_version: int
    fingerprint: str

    def __call__(self, receipts: list[Receipt], leaving: list[str]) -> list[Receipt]:
        seen: dict[str, str] = {}  # id -> uri of the row that keeps it
        result = []
        for receipt in receipts:
            ids = pa.concat_tables([self._names(f) for f in receipt.fragments]) if receipt.fragments else None
            if ids is None:
                result.append(receipt)
                continue
            names = ids["id"].to_pylist()
            winners = self._in_table(names, leaving)
            losers = self._losers(names, ids["uri"].to_pylist(), winners, seen)
            result.append(self._without(receipt, losers) if losers else receipt)
        return result

    def _losers(
        self, names: Sequence[str], uris: Sequence[str], winners: dict[str, str], seen: dict[str, str]
    ) -> dict[int, Reject]:
        """Row number within the receipt -> reject, for every row whose id is taken."""
        losers: dict[int, Reject] = {}
        for row, (name, uri) in enumerate(zip(names, uris, strict=True)):
            winner = winners.get(name) or seen.get(name)
            if winner is None:
                seen[name] = uri
            else:
                detail = f"the id belongs to {winner}"
                losers[row] = Reject(id=name, uri=uri, reason=Reason.DUPLICATE_ID, detail=detail)
        return losers

    def _in_table(self, names: Sequence[str], leaving: Sequence[str]) -> dict[str, str]:
        rows = self.tables.open()
        stay = f" AND NOT ({units_filter(leaving)})" if leaving else ""
        found: dict[str, str] = {}
        for start in range(0, len(names), LOOKUP):
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names[start : start + LOOKUP])
            table = rows.to_table(columns=["id", "uri"], filter=f"id IN ({quoted}){stay}")
            found.update(zip(table["id"].to_pylist(), table["uri"].to_pylist(), strict=True))
        return found

    def _names(self, fragment: str) -> pa.Table:
        batches = list(self._batches(fragment, ["id", "uri"]))
        return pa.Table.from_batches(batches)

    def _batches(self, fragment: str, columns: list[str] | None) -> Iterable[pa.RecordBatch]:
        """Read an uncommitted fragment's file, a thousand rows at a time."""
        from lance.file import LanceFileReader
        from lance.fragment import FragmentMetadata

        for file in FragmentMetadata.from_json(fragment).files:
            path = f"{self.tables.rows}/data/{file.path}"
            reader = LanceFileReader(path, storage_options=self.tables.options or None, columns=columns)
            yield from reader.read_all(batch_size=1024).to_batches()

    def _without(self, receipt: Receipt, losers: dict[int, Reject]) -> Receipt:
        """The receipt with those rows taken out of its fragments and entered as rejects."""
        from workers.write import fragment_json, reject_table, write_reject_fragments, write_row_fragments

        dataset = self.tables.open(version=self.pinned_version)

        def kept() -> Iterable[pa.RecordBatch]:
            row = 0
            for fragment in receipt.fragments:
                for batch in self._batches(fragment, None):
                    mask = pa.array([row + i not in losers for i in range(batch.num_rows)])
                    row += batch.num_rows
                    yield pa.record_batch(batch.filter(mask).columns, schema=dataset.schema)

        fragments: tuple[str, ...] = ()
        if len(losers) < receipt.written:
            fragments = tuple(map(fragment_json, write_row_fragments(kept(), dataset, self.tables.options)))
        table = reject_table(
            list(losers.values()),
            unit_id=receipt.unit_id,
            run=receipt.run,
            attempt=receipt.attempt,
            fingerprint=self.fingerprint,
            table_id=table_id(dataset.schema),
        )
        rejects = write_reject_fragments(table, self.tables.uri("rejects"), self.tables.options)
        counts = {**receipt.rejected, Reason.DUPLICATE_ID: receipt.rejected.get(Reason.DUPLICATE_ID, 0) + len(losers)}
        changed = replace(
            receipt,
            written=receipt.written - len(losers),
            rejected={str(reason): n for reason, n in counts.items()},
            fragments=fragments,
            reject_fragments=(*receipt.reject_fragments, *rejects),
        )
        changed.check_balance()
        return changed


def units_to_redo(tables: Tables, latest: Ledger) -> frozenset[str]:
    """Units with a `duplicate_id` reject whose winner has left the table: the loser's turn has come."""
    rejects, rows = tables.open("rejects", missing_ok=True), tables.open(missing_ok=True)
    if rejects is None or rows is None:
        return frozenset()
    attempts = {(e.unit_id, e.run, e.attempt) for e in live(latest).values() if e.state == LedgerState.COMMITTED}
    redo: set[str] = set()
    scanner = rejects.scanner(columns=["id", "unit_id", "run", "attempt"], filter="reason = 'duplicate_id'")
    for batch in scanner.to_batches():
        losers = [r for r in batch.to_pylist() if (r["unit_id"], r["run"], r["attempt"]) in attempts]
        taken = _present(rows, [r["id"] for r in losers])
        redo.update(r["unit_id"] for r in losers if r["id"] not in taken)
    return frozenset(redo)


def _present(rows: Any, ids: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), LOOKUP):
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[start : start + LOOKUP])
        found.update(pc.unique(rows.to_table(columns=["id"], filter=f"id IN ({quoted})")["id"]).to_pylist())
    return found
