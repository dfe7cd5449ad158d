"""`clipmill index TABLE`: every index a query can use, built or brought up to date, and what the result is worth.

Safe beside writers: index commits conflict with no append, and one that meets a compaction is refused whole. Safe to
kill: each index is one commit, and a second run goes on with what is missing.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from clipmill.jobs.indexing import scalar, segments, vector
from clipmill.jobs.indexing.curves import measure_curve, up_to_date
from clipmill.jobs.indexing.plan import MEMORY_BYTES, Kind, VectorPlan, kept_plan, plan_vector_index, rows_per_segment
from clipmill.jobs.indexing.recall import Recall, ask, measure
from clipmill.jobs.querying.curve import CONFIG_KEY, Curve, stored_curve, stored_report
from clipmill.jobs.querying.snapshot import VectorIndex, read_vector_index, with_curve
from clipmill.jobs.table import memory
from clipmill.jobs.table.errors import NoSpace, is_conflict, refusal
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """`kind`: auto keeps what is there, and else picks by size. `columns`: vector columns; none named: `vector`, and
    those that have an index. `memory_bytes`: of the vector index in a query process; None: the bits that are there, or
    4 GB. `rebuild`: pick, train and build everything anew. `measure_recall`: compare with brute force where the stored
    figure is missing or older than the rows. `address`: the Ray cluster whose nodes build the segments.
    `rows_per_segment`: a larger table is indexed in several; None: by its size."""

    kind: Kind = "auto"
    columns: tuple[str, ...] = ()
    memory_bytes: int | None = None
    rebuild: bool = False
    measure_recall: bool = True
    address: str | None = None
    rows_per_segment: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """`done`: none, current, extended or built. `recall` is None without an index, and where rows were added without
    measuring. `asked`: the kind that somebody chose. `newest_fragment`: of the rows at that time. `curve`: how far
    searches look. `device`: what trained partitions and placed rows here last, cpu or a GPU's name."""

    column: str
    kind: str
    num_partitions: int
    bits: int
    rows: int
    done: str
    recall: Recall | None
    at: str = ""
    asked: Kind = "auto"
    newest_fragment: int = -1
    curve: Curve | None = None
    device: str = ""


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
    if options.address:
        from clipmill.jobs.cluster.connect import check_address

        check_address(options.address)  # before anything is built
    memory.use_little()
    tables = Tables.at(table, storage)
    dataset = tables.open()
    names = [f.name for f in dataset.schema if pa.types.is_fixed_size_list(f.type)]
    for column in options.columns:
        if column not in names:
            raise UserError(f"{column} is no vector column of {table}", f"there is: {', '.join(names)}")
    with _told(table):
        done = scalar.build(dataset, rebuild=options.rebuild, tell=tell)
        dataset.checkout_latest()
        with _builder(tables, dataset, options, tell) as builder:
            columns = options.columns or _indexed(dataset, names)
            try:
                reports = [_build_vector(dataset, column, options, builder) for column in columns]
            finally:
                builder.products.give_back()
    dataset.checkout_latest()
    return IndexReport(table=table, version=dataset.version, vectors=reports, scalar=done)


@contextlib.contextmanager
def _builder(
    tables: Tables, dataset: Any, options: IndexOptions, tell: Callable[[str], None]
) -> Iterator[segments.Builder]:
    """Builds segments here one after another, or on the cluster's nodes side by side."""
    total = dataset.count_rows()
    rows = options.rows_per_segment or rows_per_segment(total)
    if not options.address:
        yield segments.Builder(tables=tables, rows_per_segment=rows, run=segments.in_turn, tell=tell)
        return
    from clipmill.jobs.cluster.connect import connected
    from clipmill.jobs.indexing.cluster import count_nodes, on_nodes

    with connected(options.address):
        share = max(1, -(-total // max(1, count_nodes())))
        yield segments.Builder(tables=tables, rows_per_segment=min(rows, share), run=on_nodes, tell=tell)


@contextlib.contextmanager
def _told(table: str) -> Iterator[None]:
    """New rows conflict with no index, but rows that a compaction rewrote are not those that were indexed. And what
    Lance cannot write may be of the table or of TMPDIR: it says so of neither."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = refusal(error, table)
        if isinstance(told, NoSpace):
            raise NoSpace(told.message, f"{told.hint}; what an index is made from lies in TMPDIR meanwhile") from None
        if told is not None:
            raise told from None
        if not is_conflict(error):
            raise
        raise ClipmillError(
            f"another writer changed {table} while its index was built, of which nothing is seen", "run it again"
        ) from None


def _indexed(dataset: Any, vectors: list[str]) -> list[str]:
    """The column that searches use, and those that somebody had indexed."""
    indexed = {name for index in dataset.describe_indices() for name in index.field_names}
    return [name for name in vectors if name == "vector" or name in indexed]


def _plan(dataset: Any, column: str, options: IndexOptions) -> tuple[VectorPlan, Kind]:
    """The index the column should have, and the kind that somebody chose for it, now or earlier."""
    rows, dim = dataset.count_rows(), dataset.schema.field(column).type.list_size
    memory_bytes = options.memory_bytes
    if options.kind == "auto" and not options.rebuild:
        if (existing := vector.existing_plan(dataset, column)) is not None:
            asked = (stored_report(dataset, column) or {}).get("asked", "auto")
            return kept_plan(existing[1], rows, dim, memory_bytes), asked
        if (stored_report(dataset, column) or {}).get("asked") == "none":
            return VectorPlan(kind=""), "none"
    budget = MEMORY_BYTES if memory_bytes is None else memory_bytes
    plan = plan_vector_index(rows, dim, options.kind, budget)
    return plan if not plan.kind or _has_any(dataset, column) else VectorPlan(kind=""), options.kind


def _has_any(dataset: Any, column: str) -> bool:
    """Whether any row has a vector: of captions, where there are none, no row has."""
    found = dataset.scanner(columns=[], filter=f"{column} IS NOT NULL", limit=1, with_row_id=True)
    return bool(found.to_table().num_rows)


def _build_vector(dataset: Any, column: str, options: IndexOptions, builder: segments.Builder) -> VectorReport:
    rows = dataset.count_rows()
    newest = max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1)
    plan, asked = _plan(dataset, column, options)
    done = vector.build(dataset, column, plan, retrain=options.rebuild, builder=builder)
    dataset.checkout_latest()
    if metric := vector.other_metric(dataset, column):
        builder.tell(
            f"{column}: the index is of {metric} distances, so no search uses it; --rebuild makes one of cosines"
        )
    index = _index(dataset, column)
    if index is not None:
        plan = VectorPlan(kind=index.kind, num_partitions=index.num_partitions, bits=index.bits)
    stored = stored_report(dataset, column) or {}
    recall = _stored_recall(stored) if (stored.get("rows"), stored.get("newest_fragment")) == (rows, newest) else None
    current = done == "current" and recall is not None
    memory.give_back()
    questions = ask(dataset, column) if index is not None and options.measure_recall and not current else None
    searched, looked = _look(dataset, column, index, built=done == "built", tell=builder.tell)
    measured = index is not None and options.measure_recall and (looked or not current)
    report = VectorReport(
        column=column,
        kind=plan.kind,
        num_partitions=plan.num_partitions,
        bits=plan.bits,
        rows=rows,
        done=done,
        recall=measure(dataset, column, index=searched, asked=questions) if measured else recall if current else None,
        at=str(stored.get("at", "")) if current and not measured else datetime.now(UTC).isoformat(timespec="seconds"),
        asked=asked,
        newest_fragment=newest,
        curve=searched.curve if searched else None,
        device=builder.products.device if done in ("built", "extended") else str(stored.get("device", "")),
    )
    if measured or looked or done in ("built", "extended") or asked != stored.get("asked", "auto"):
        # A key per column: the compare-and-swap is per key, so builds of two columns never get in each other's way.
        dataset.update_config({CONFIG_KEY + column: json.dumps(asdict(report))})
    return report


def _index(dataset: Any, column: str) -> VectorIndex | None:
    found = vector.existing_plan(dataset, column)
    return read_vector_index(dataset, found[0]) if found is not None else None


def _look(
    dataset: Any, column: str, index: VectorIndex | None, *, built: bool, tell: Callable[[str], None]
) -> tuple[VectorIndex | None, bool]:
    """The index with its curve, and whether that was measured now: of an index `built` now, where there is none, and
    where the rows are others."""
    if index is None:
        return None, False
    curve = stored_curve(dataset, column)
    if not built and up_to_date(curve, index, dataset.count_rows()):
        return with_curve(index, curve), False
    memory.give_back()
    curve = measure_curve(dataset, column, index)
    if curve is not None:
        tell(f"{column}: the nearest ten lie in {curve.probes[0]} of {counted(index.num_partitions, 'partition')}")
    return with_curve(index, curve), curve is not None


def _stored_recall(stored: dict[str, Any]) -> Recall | None:
    try:
        return Recall(**stored["recall"]) if stored.get("recall") else None
    except TypeError:  # somebody's else
        return None


def is_behind(dataset: Any) -> bool:
    """Whether `build_index` would do something by itself. Reads only."""
    if scalar.is_behind(dataset):
        return True
    for column in _indexed(dataset, [f.name for f in dataset.schema if pa.types.is_fixed_size_list(f.type)]):
        plan, _ = _plan(dataset, column, IndexOptions())
        if vector.is_behind(dataset, column, plan):
            return True
    return False
