"""`<name>__deleted`: what people had deleted, so that it does not come back. One function reads it for whoever embeds.

The table is made by the first delete. Like a reject, a tombstone counts only once its delete is in the ledger: a delete
that died before its rows left has deleted nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from clipmill.jobs.table.ledger import Ledger, live
from clipmill.jobs.table.tables import Tables
from clipmill.schemas import columns
from clipmill.schemas.columns import of_table
from clipmill.schemas.unit.receipts import LedgerState
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.tombstones import Tombstone, Tombstones

PART = "deleted"


def read_tombstones(tables: Tables) -> Tombstones:
    """All that count, for the context of a run; to be read under the lease, after healing. 16 to 32 bytes each."""
    return Tombstones.of(stone for batch in counted(tables) for stone in to_stones(batch))


def counted(tables: Tables, where: str | None = None) -> Iterator[pa.RecordBatch]:
    """Tombstones of the rows table that is there now whose delete is in the ledger. `where`: on their columns."""
    dataset = tables.open(PART, missing_ok=True)
    landed = deletes_in_ledger(tables) if dataset is not None else set()
    if dataset is None or not landed:
        return
    mine = of_table(dataset.schema, tables.id() or "")
    for batch in dataset.to_batches(filter=f"({where}) AND {mine}" if where else mine):
        mask = pa.array([run in landed for run in batch.column("run").to_pylist()], pa.bool_())
        yield batch.filter(mask)


def to_stones(batch: pa.RecordBatch | pa.Table) -> Iterator[Tombstone]:
    names = ("id", "uri", "image_hash", "everywhere")
    for id_, uri, image_hash, everywhere in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        yield Tombstone(id=id_, uri=uri, image_hash=image_hash, everywhere=everywhere)


def deletes_in_ledger(tables: Tables) -> set[str]:
    """Runs of the deletes whose rows have left: the ledger's events name them."""
    units = tables.open("units", missing_ok=True)
    if units is None or "deleted_by" not in units.schema.names:
        return set()
    where = f"deleted_by IS NOT NULL AND deleted_by != '' AND {of_table(units.schema, tables.id() or '')}"
    found: set[str] = set()
    for batch in units.to_batches(columns=["deleted_by"], filter=where):
        found.update(batch.column(0).unique().to_pylist())
    return found


def rows_by_unit(tables: Tables) -> Counter[str]:
    """How many deleted rows of each unit have a tombstone that counts."""
    found: set[tuple[str, str]] = set()
    for batch in counted(tables, "image_hash != ''"):
        found.update(zip(batch.column("unit_id").to_pylist(), batch.column("id").to_pylist(), strict=True))
    return Counter(unit_id for unit_id, _ in found)


def deleted_among(tables: Tables, ids: Iterable[str]) -> set[str]:
    """Those of these ids that have a tombstone."""
    wanted = set(ids)
    if not wanted:
        return set()
    return wanted & {name for batch in counted(tables) for name in batch.column("id").to_pylist()}


def stayed_away(tables: Tables, latest: Ledger) -> tuple[int, int]:
    """(rows that were deleted on request, samples that were read again and kept out) of the live units of a ledger:
    what nobody wants to be there, and so is neither missing nor bad."""
    deleted = sum(e.deleted for e in live(latest).values() if e.state == LedgerState.COMMITTED)
    return deleted, sum(kept_out(tables, latest).values())


def kept_out(tables: Tables, latest: Ledger) -> Counter[str]:
    """By live unit, samples that were read after they had been deleted, and are rejects for that."""
    rejects = tables.open("rejects", missing_ok=True)
    if rejects is None or not deletes_in_ledger(tables):
        return Counter()
    alive = {(e.unit_id, e.run, e.attempt) for e in live(latest).values() if e.state == LedgerState.COMMITTED}
    names = ["unit_id", "run", "attempt"]
    batches = rejects.to_batches(columns=names, filter=f"reason = '{Reason.DELETED}'")
    keys = (key for b in batches for key in zip(*(b.column(name).to_pylist() for name in names), strict=True))
    return Counter(key[0] for key in keys if key in alive)


def deleted_since(tables: Tables, version: int) -> set[str]:
    """Ids of rows that were deleted on request after this version of the rows, whatever became of their units since;
    also of rejects that waited for them."""
    units = tables.open("units", missing_ok=True)
    if units is None or "deleted_by" not in units.schema.names:
        return set()
    first: dict[str, int] = {}
    where = f"deleted_by IS NOT NULL AND deleted_by != '' AND {of_table(units.schema, tables.id() or '')}"
    for batch in units.to_batches(columns=["deleted_by", "table_version"], filter=where):
        for run, at in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            first[run] = min(first.get(run, at), at)
    later = {run for run, at in first.items() if at > version}
    found: set[str] = set()
    for batch in counted(tables) if later else ():
        names = zip(batch.column("run").to_pylist(), batch.column("id").to_pylist(), strict=True)
        found.update(name for run, name in names if run in later)
    return found


def append(tables: Tables, stones: pa.Table) -> None:
    """Of the schema of `<name>__deleted`, which is made where it is missing. Under the lease, before the rows leave."""
    tables.create(PART, columns.DELETED)
    tables.append(PART, stones.select(columns.DELETED.names).cast(columns.DELETED))


def take_back(tables: Tables, where: str) -> int:
    """Remove the tombstones for which this holds, under the lease; how many counted and are gone."""
    dataset = tables.open(PART, missing_ok=True)
    count: int = sum(batch.num_rows for batch in counted(tables, where))
    if dataset is not None and count:
        dataset.delete(f"({where}) AND {of_table(dataset.schema, tables.id() or '')}")
    return count
