"""`clipmill index TABLE`: every index a query can use, built or brought up to date, and what the result is worth.

Safe beside writers (index commits conflict with no append) and safe to kill: each index is one commit, and a second
run goes on with what is missing.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.indexing import scalar, segments, vector
from jobs.indexing.plan import ROWS_PER_SEGMENT, Kind, plan_vector_index
from jobs.indexing.recall import Recall, measure
from jobs.tables import Tables
from schemas.config import Storage
from schemas.errors import UserError

logger = logging.getLogger(__name__)

CONFIG_KEY = "clipmill.index."


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """`kind`: auto picks by size. `columns`: vector columns. `memory_bytes`: of the vector index in a query process.
    `rebuild`: train and build everything anew. `measure_recall`: compare with brute force afterwards. `address`: the
    Ray cluster whose nodes build the segments. `rows_per_segment`: a larger table is indexed in several."""

    kind: Kind = "auto"
    columns: tuple[str, ...] = ("vector",)
    memory_bytes: int = 4_000_000_000
    rebuild: bool = False
    measure_recall: bool = True
    address: str | None = None
    rows_per_segment: int = ROWS_PER_SEGMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """`done`: none, current, extended or built. `recall` is None without an index."""

    column: str
    kind: str
    num_partitions: int
    bits: int
    rows: int
    done: str
    recall: Recall | None
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What `clipmill index` did. `scalar`: built, extended or current by column."""

    table: str
    version: int
    vectors: list[VectorReport]
    scalar: dict[str, str] = field(default_factory=dict)


def build_index(
    table: str,
    options: IndexOptions | None = None,
    storage: Storage | None = None,
    *,
    tell: Callable[[str], None] = logger.info,
) -> IndexReport:
    """Build or update all indices of `<database uri>/<name>`. Raises UserError for a missing table or column."""
    options = options or IndexOptions()
    dataset = Tables.at(table, storage).open()
    for column in options.columns:
        names = [f.name for f in dataset.schema if pa.types.is_fixed_size_list(f.type)]
        if column not in names:
            raise UserError(f"{column} is no vector column of {table}", f"there is: {', '.join(names)}")
    done = scalar.build(dataset, rebuild=options.rebuild, tell=tell)
    dataset.checkout_latest()
    with _builder(dataset, options, storage or Storage(), tell) as builder:
        reports = [_build_vector(dataset, column, options, builder) for column in options.columns]
    dataset.checkout_latest()
    return IndexReport(table=table, version=dataset.version, vectors=reports, scalar=done)


@contextlib.contextmanager
def _builder(
    dataset: Any, options: IndexOptions, storage: Storage, tell: Callable[[str], None]
) -> Iterator[segments.Builder]:
    """Builds segments here one after another, or on the cluster's nodes side by side."""
    if not options.address:
        yield segments.Builder(
            storage=storage, rows_per_segment=options.rows_per_segment, run=segments.in_turn, tell=tell
        )
        return
    from jobs.cluster import connected
    from jobs.indexing.cluster import count_nodes, on_nodes

    with connected(options.address):
        share = -(-dataset.count_rows() // max(1, count_nodes()))
        rows = max(1, min(options.rows_per_segment, share))
        yield segments.Builder(storage=storage, rows_per_segment=rows, run=on_nodes, tell=tell)


def _build_vector(dataset: Any, column: str, options: IndexOptions, builder: segments.Builder) -> VectorReport:
    rows = dataset.count_rows()
    plan = plan_vector_index(rows, dataset.schema.field(column).type.list_size, options.kind, options.memory_bytes)
    done = vector.build(dataset, column, plan, retrain=options.rebuild, builder=builder)
    dataset.checkout_latest()
    if (built := vector.existing_plan(dataset, column)) is not None:
        plan = built[1]
    report = VectorReport(
        column=column,
        kind=plan.kind,
        num_partitions=plan.num_partitions,
        bits=plan.bits,
        rows=rows,
        done=done,
        recall=measure(dataset, column) if built and options.measure_recall and done != "current" else None,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if done in ("built", "extended"):
        # A key per column: the compare-and-swap is per key, so builds of two columns never get in each other's way.
        dataset.update_config({CONFIG_KEY + column: json.dumps(asdict(report))})
    return report


def stored_report(dataset: Any, column: str = "vector") -> dict[str, Any] | None:
    """The report of the last build or extension of a column's index, as JSON values; None before the first."""
    text = dataset.config().get(CONFIG_KEY + column)
    return json.loads(text) if text else None
