"""One id, one row: the later of two samples with the same id becomes the reject `duplicate_id`, or takes the id over
where the earlier one's place is gone.

Ids that are URIs of members or objects are unique by construction. Ids from keys, contents and columns are not, nor
are URIs that a manifest may list twice; those are checked within the commit and against the table's id index.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing.commit import ids_filter, units_filter
from clipmill.jobs.committing.moves import Gone, IsGone, unlisted
from clipmill.jobs.table import tombstones
from clipmill.jobs.table.ledger import Ledger, live
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import table_id
from clipmill.schemas.job.config import Source
from clipmill.schemas.unit.receipts import LedgerState, Outcome, Receipt
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.tombstones import hash_in
from clipmill.schemas.unit.units import WorkUnit

LOOKUP = 5_000  # ids per query of the id index
# How the detail begins where the winner's place is gone, and the loser is another picture: its turn never comes.
OTHER_BYTES = "the id belongs to other bytes"


def can_repeat(source: Source) -> bool:
    """Whether two samples of this source may come with one id."""
    return source.id != "uri" or source.format in ("manifest", "parquet", "lance")


@dataclass(frozen=True, slots=True)
class Row:
    """The row that has an id."""

    uri: str
    unit_id: str
    image_hash: str


@dataclass(frozen=True, slots=True)
class Checked:
    """`moved`: unit -> ids of its rows whose samples came back among the new, and which leave in the same commit."""

    receipts: list[Receipt]
    moved: dict[str, list[str]]


@dataclass(slots=True)
class Deduplicator:
    """Called by the collector before a commit. `pinned_version` is the one the run's fragments are written against.

    The row that is there wins, unless its place is gone or written over and the new sample has its bytes, or another
    pattern names the same file now: then the sample has moved, and its row follows.
    """

    tables: Tables
    pinned_version: int
    fingerprint: str
    gone: Gone = field(default_factory=Gone)

    def __call__(self, receipts: list[Receipt], leaving: list[str]) -> Checked:
        seen: dict[str, str] = {}  # id -> uri of the row that keeps it
        moved: dict[str, list[str]] = {}
        result = []
        for receipt in receipts:
            if receipt.outcome == Outcome.ALIAS:
                self.gone.stays(receipt.alias_of)
        for receipt in receipts:
            rows = pa.concat_tables([self._names(f) for f in receipt.fragments]) if receipt.fragments else None
            if rows is None:
                result.append(receipt)
                continue
            losers = self._losers(rows, leaving, seen, moved)
            result.append(self._without(receipt, losers) if losers else receipt)
        return Checked(result, moved)

    def _losers(
        self, rows: pa.Table, leaving: list[str], seen: dict[str, str], moved: dict[str, list[str]]
    ) -> dict[int, Reject]:
        """Row number within the receipt -> reject, for every row whose id is taken. `seen` and `moved` grow."""
        losers: dict[int, Reject] = {}
        stay = f" AND NOT ({units_filter(leaving)})" if leaving else ""
        winners = _owners(self.tables.open(), rows["id"].to_pylist(), stay)
        units = {winner.unit_id for winner in winners.values()}
        gone, files = self.gone.among(units), self.gone.files_among(units)
        for number, row in enumerate(rows.to_pylist()):
            name, uri, winner = row["id"], row["uri"], winners.get(row["id"])
            detail = ""
            if name in seen:
                detail = f"the id belongs to {seen[name]}"
            elif winner is not None and winner.unit_id in gone and winner.image_hash != row["image_hash"]:
                detail = f"{OTHER_BYTES}, to {winner.uri}"
            elif winner is not None and winner.unit_id not in gone:
                is_same = winner.unit_id in files and winner.uri == uri
                detail = "" if is_same else f"the id belongs to {winner.uri}"
            if detail:
                losers[number] = Reject(id=name, uri=uri, reason=Reason.DUPLICATE_ID, detail=detail)
                continue
            seen[name] = uri
            if winner is not None:
                moved.setdefault(winner.unit_id, []).append(name)
        return losers

    def _names(self, fragment: str) -> pa.Table:
        batches = list(self._batches(fragment, ["id", "uri", "image_hash"]))
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
        from clipmill.workers.write import (
            count_filled,
            fragment_json,
            reject_table,
            write_reject_fragments,
            write_row_fragments,
        )

        dataset = self.tables.open(version=self.pinned_version)
        filled = dict.fromkeys(receipt.filled, 0)

        def kept() -> Iterable[pa.RecordBatch]:
            row = 0
            for fragment in receipt.fragments:
                for batch in self._batches(fragment, None):
                    mask = pa.array([row + i not in losers for i in range(batch.num_rows)])
                    row += batch.num_rows
                    left = pa.record_batch(batch.filter(mask).columns, schema=dataset.schema)
                    count_filled(filled, left, receipt.filled)
                    yield left

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
            filled=filled,
            fragments=fragments,
            reject_fragments=(*receipt.reject_fragments, *rejects),
        )
        changed.check_balance()
        return changed


def units_to_redo(tables: Tables, latest: Ledger, units: Iterable[WorkUnit], is_gone: IsGone) -> frozenset[str]:
    """Of the listed `units` those with a `duplicate_id` reject whose winner has left the table, or whose winner's place
    is gone: the loser's turn has come; not where a person had the winner deleted. And units whose deleted samples may
    come back, because their tombstones were taken back."""
    rejects, rows = tables.open("rejects", missing_ok=True), tables.open(missing_ok=True)
    if rejects is None or rows is None:
        return frozenset()
    deletes = tombstones.deletes_in_ledger(tables)
    repeated = rejects.count_rows(filter=f"reason = '{Reason.DUPLICATE_ID}'") > 0
    if not repeated and not deletes:  # as most nights: nothing of the size of the ledger is built for it
        return frozenset()
    gone = Gone(unlisted({unit.unit_id for unit in units}, latest), is_gone)
    attempts = {(e.unit_id, e.run, e.attempt) for e in live(latest).values() if e.state == LedgerState.COMMITTED}
    redo: set[str] = set()
    columns = ["id", "unit_id", "run", "attempt", "detail"]
    for batch in rejects.scanner(columns=columns, filter="reason = 'duplicate_id'").to_batches():
        losers = [r for r in batch.to_pylist() if (r["unit_id"], r["run"], r["attempt"]) in attempts]
        owners = _owners(rows, [r["id"] for r in losers])
        ownerless = {r["id"] for r in losers if r["id"] not in owners}
        if deletes and ownerless:  # whoever deleted the winner did not ask for the loser
            ownerless -= tombstones.deleted_among(tables, ownerless)
        redo.update(r["unit_id"] for r in losers if r["id"] in ownerless)
        waiting = [r for r in losers if r["id"] in owners and not r["detail"].startswith(OTHER_BYTES)]
        giving = gone.among(owners[r["id"]].unit_id for r in waiting)
        redo.update(r["unit_id"] for r in waiting if owners[r["id"]].unit_id in giving)
    if deletes:
        redo |= _taken_back(tables, rejects, latest, attempts)
    return frozenset(redo)


def _taken_back(tables: Tables, rejects: Any, latest: Ledger, attempts: set[tuple[str, str, int]]) -> set[str]:
    """Units of which a row was deleted, or a sample kept out, for a tombstone that somebody has taken back since."""
    standing = tombstones.rows_by_unit(tables)
    alive = live(latest).items()
    redo = {i for i, e in alive if e.state == LedgerState.COMMITTED and e.deleted > standing[i]}
    stones = tombstones.read_tombstones(tables)
    columns = ["id", "uri", "unit_id", "run", "attempt", "detail"]
    for batch in rejects.scanner(columns=columns, filter=f"reason = '{Reason.DELETED}'").to_batches():
        for r in batch.to_pylist():
            counts = (r["unit_id"], r["run"], r["attempt"]) in attempts
            if counts and not stones.holds(r["id"], r["uri"], hash_in(r["detail"])):
                redo.add(r["unit_id"])
    return redo


def _owners(rows: Any, ids: Sequence[str], stay: str = "") -> dict[str, Row]:
    """Id -> the row that has it. `stay`: a further condition."""
    found: dict[str, Row] = {}
    for start in range(0, len(ids), LOOKUP):
        where = ids_filter(ids[start : start + LOOKUP]) + stay
        table = rows.to_table(columns=["id", "uri", "unit_id", "image_hash"], filter=where)
        for row in table.to_pylist():
            found[row["id"]] = Row(row["uri"], row["unit_id"], row["image_hash"])
    return found
