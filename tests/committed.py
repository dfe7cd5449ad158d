"""Small real tables for the tests of the commit protocol: real Lance, no Ray, no model. D = 4. And drivers that die."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import xxhash

from clipmill.jobs.committing.commit import Hook
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import Commit
from clipmill.schemas.model import Fingerprint, Preprocess
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState, Outcome, Receipt
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.write import fragment_json, reject_table, write_reject_fragments, write_row_fragments

DIM = 4
NEVER = Commit.model_validate({"every_rows": 10**9, "every_s": 3600})  # only when the test says so
FINGERPRINT = Fingerprint(
    model="stub:4",
    pretrained="",
    weights_sha256="0" * 64,
    preprocess=Preprocess(size_HW=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    tokenizer="none",
    dim=DIM,
)


def make_tables(folder: object, *, storage: object = None) -> Tables:
    tables = Tables.at(f"{folder}/db/images", storage)  # type: ignore[arg-type]
    tables.ensure_side_tables()
    schema = rows_schema(
        dim=DIM, keep={}, fingerprint_json=FINGERPRINT.to_json(), vocabulary_json=None, thumbnails=False
    )
    tables.create("", schema)
    return tables


def take_lease(tables: Tables, run: str, *, ttl_s: float = 30.0) -> Lease:
    lease = Lease(tables, run, "embed", ttl_s=ttl_s)
    lease.take(poll_s=0.05)
    lease.fence()
    return lease


class Killed(BaseException):
    """kill -9: nothing in the protocol catches it."""


def killer(step: str, after: int = 0) -> Hook:
    """A hook that kills the driver at this step of a commit, and lets `after` commits by first."""
    left = after

    def hook(now: str) -> None:
        nonlocal left
        if now == step:
            left -= 1
            if left < 0:
                raise Killed(step)

    return hook


@contextmanager
def mortal(tables: Tables, run: str) -> Iterator[Lease]:
    """A run under its lease, of which nothing is seen when it is killed; the release stands for the term that ends."""
    lease = take_lease(tables, run)
    with suppress(Killed):
        yield lease
    lease.release()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows_table(
    tables: Tables, unit_id: str, ids: Sequence[str], *, of: WorkUnit | None = None, images: Sequence[str] = ()
) -> pa.Table:
    """`of`: the unit whose uri and etag the rows carry; None: as `entry` has them. `images`: what is hashed for bytes;
    the ids where there are none."""
    n = len(ids)
    source, etag = (of.uri, of.etag) if of else (f"file:///{unit_id}.tar", "e")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.full(n * DIM, 0.5, np.float16)), DIM)
    values = {
        "id": pa.array(ids),
        "uri": pa.array([f"{source}#{i}" for i in ids]),
        "source_etag": pa.array([etag] * n),
        "unit_id": pa.array([unit_id] * n),
        "image_hash": pa.array([xxhash.xxh3_128_hexdigest(i.encode()) for i in images or ids]),
        "width": pa.array([1] * n, pa.int32()),
        "height": pa.array([1] * n, pa.int32()),
        "vector": vectors,
    }
    schema = tables.open().schema
    arrays = [values[f.name].cast(f.type) if f.name in values else pa.nulls(n, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def fragments(
    tables: Tables,
    unit_id: str,
    ids: Sequence[str],
    *,
    version: int | None = None,
    of: WorkUnit | None = None,
    images: Sequence[str] = (),
) -> tuple[str, ...]:
    if not ids:
        return ()
    dataset = tables.open(version=version)
    batches = rows_table(tables, unit_id, ids, of=of, images=images).to_batches()
    return tuple(map(fragment_json, write_row_fragments(batches, dataset, tables.options)))


def unit(unit_id: str, uri: str = "", **changes: object) -> WorkUnit:
    made = WorkUnit(unit_id=unit_id, format="webdataset", uri=uri or f"file:///{unit_id}.tar", etag="e", size_bytes=10)
    return replace(made, **changes)  # type: ignore[arg-type]


def entry(
    unit_id: str, run: str, written: int, *, uri: str = "", state: LedgerState = LedgerState.COMMITTED
) -> LedgerEntry:
    return replace(entry_of(unit(unit_id, uri), run, written), state=state)


def entry_of(unit: WorkUnit, run: str, seen: int, *, rejected: int = 0, version: int = 0) -> LedgerEntry:
    """A committed unit; what was not rejected was written."""
    return LedgerEntry(
        unit_id=unit.unit_id,
        state=LedgerState.COMMITTED,
        uri=unit.uri,
        etag=unit.etag,
        start=unit.start,
        end=unit.end,
        format=unit.format,
        run=run,
        attempt=1,
        seen=seen,
        written=seen - rejected,
        rejected=rejected,
        table_version=version,
    )


def receipt(
    tables: Tables,
    run: str,
    unit_id: str,
    ids: Sequence[str],
    *,
    bad: int = 0,
    attempt: int = 1,
    of: WorkUnit | None = None,
    images: Sequence[str] = (),
) -> Receipt:
    rejects: tuple[str, ...] = ()
    if bad:
        named = [Reject(id=f"bad{i}", uri=f"file:///{unit_id}/bad{i}", reason=Reason.CORRUPT) for i in range(bad)]
        table = reject_table(named, unit_id=unit_id, run=run, attempt=attempt, fingerprint="0" * 16)
        rejects = tuple(write_reject_fragments(table, tables.uri("rejects"), tables.options))
    return Receipt(
        unit_id=unit_id,
        run=run,
        attempt=attempt,
        outcome=Outcome.DONE,
        seen=len(ids) + bad,
        written=len(ids),
        rejected={"corrupt": bad} if bad else {},
        fragments=fragments(tables, unit_id, ids, of=of, images=images),
        reject_fragments=rejects,
        content_hash=f"hash-{unit_id}",
    )


def alias(one: WorkUnit, run: str, of: str, content_hash: str) -> Receipt:
    """What a worker says of a unit whose content is that of unit `of`."""
    made = Receipt(unit_id=one.unit_id, run=run, attempt=1, outcome=Outcome.ALIAS, alias_of=of)
    return replace(made, content_hash=content_hash)


def ids(tables: Tables) -> list[str]:
    return sorted(tables.open().to_table(columns=["id"])["id"].to_pylist())
