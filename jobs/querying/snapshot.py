"""One version of the table, opened: its dataset and what was learned of it once. Replaced whole by a refresh."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying import deadline
from clipmill.jobs.querying.at_hand import conditions
from clipmill.jobs.querying.at_hand.marked import Marked
from clipmill.jobs.querying.at_hand.rows import HeldRows
from clipmill.jobs.querying.at_hand.tags import HeldTags
from clipmill.jobs.querying.curve import Curve, stored_curve
from clipmill.jobs.querying.damaged import reading_index
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.newer import NONE_NEWER, Newer
from clipmill.jobs.querying.pieces import scanners
from clipmill.jobs.querying.vectors import HeldVectors
from clipmill.schemas.columns import FINGERPRINT_KEY, set_column, table_id, vocabularies_in, waiting
from clipmill.schemas.errors import ClipmillError, DamagedIndex, UserError
from clipmill.schemas.model import Fingerprint
from clipmill.workers.recent import Recent

if TYPE_CHECKING:
    from clipmill.jobs.querying.at_hand.sketch import WarmVectors

logger = logging.getLogger(__name__)
TagFilter = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # any, all, none of these
ROW_ID = "_rowid"  # stable: rows keep it through compaction
_COUNTS_BYTES = 16_000_000  # a filter may be a list of thousands of ids


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """`kind`: IVF_RQ, IVF_HNSW_SQ, ... `unindexed_rows` are searched beside it, exactly. `deltas`: parts that were
    added one after another, each searched on its own. `curve`: how far it must be searched, where that was measured.
    `metric`: of distances."""

    name: str
    kind: str
    num_partitions: int
    bits: int  # of IVF_RQ, per dimension; 0 for other kinds
    unindexed_rows: int
    deltas: int = 1
    metric: str = "cosine"
    curve: Curve | None = None


def read_vector_index(dataset: Any, name: str) -> VectorIndex:
    """What Lance says of one index. Raises DamagedIndex."""
    # Centroids would be parsed to a Python list of P x D floats, and warned about; read when asked for only.
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    with reading_index(dataset, name):
        stats = dataset.stats.index_stats(name)
    parts = stats.get("indices") or [{}]
    kind = str(stats.get("index_type", "")).upper()
    bits = int((parts[0].get("sub_index") or {}).get("num_bits") or 0)
    return VectorIndex(
        name=name,
        kind=kind,
        num_partitions=max(int(part.get("num_partitions") or 1) for part in parts),
        bits=bits if kind == "IVF_RQ" else 0,  # scalar quantisation has a number of bits too, which nobody chose
        unindexed_rows=int(stats.get("num_unindexed_rows", 0)),
        deltas=len(parts),
        metric=str(parts[0].get("metric_type") or "cosine").lower(),
    )


def with_curve(index: VectorIndex, curve: Curve | None) -> VectorIndex:
    """The curve is left out where it was measured on an index of another shape, which somebody has replaced."""
    fits = curve is not None and curve.is_of(index.kind, index.num_partitions, index.bits)
    return replace(index, curve=curve if fits else None)


class Snapshot:
    """A version of the table. Thread-safe: caches are only ever filled with equal values."""

    def __init__(self, dataset: Any, newer: Newer = NONE_NEWER) -> None:
        self.dataset = dataset
        self.newer = newer
        self.version: int = dataset.version
        self.schema: pa.Schema = dataset.schema
        self.warm: dict[str, WarmVectors] = {}
        self.rows: HeldRows | None = None
        self.passing: Recent[str, npt.NDArray[np.uint64]] = Recent(lambda _, ids: ids.nbytes, max_bytes=32_000_000)
        self.blocked: Recent[str, bytes] = Recent(lambda _, ids: len(ids), max_bytes=8_000_000)
        self.tags: tuple[str, HeldTags] | None = None  # in the places of that column's vectors
        self.marks = self._marks(0)
        self.subsets: Recent[tuple[str, str], HeldVectors] = Recent(lambda _, v: v.nbytes, max_bytes=128_000_000)
        self.rankings: Recent[tuple[Any, ...], pa.Table] = Recent(_weigh_ranking, max_bytes=16_000_000)
        self.counted: Recent[tuple[str | None, str], Any] = Recent(_weigh_facet, max_bytes=64_000_000)
        self._of_tags: Recent[str, TagFilter] = Recent(lambda p, _: 400 + 2 * len(p), max_bytes=_COUNTS_BYTES)
        # Rows that pass and have a vector, where an exact search found fewer than it was asked for.
        self.with_vector: Recent[tuple[str, str | None], int] = Recent(
            lambda key, _: 200 + len(key[1] or ""), max_bytes=_COUNTS_BYTES
        )
        self._counts: Recent[str, int] = Recent(lambda predicate, _: 200 + len(predicate), max_bytes=_COUNTS_BYTES)
        self._vector_indices: dict[str, VectorIndex | None] = {}
        self._fingerprints: dict[str, Fingerprint] = {}

    def anew(self) -> Snapshot:
        """The same version with nothing at hand: what is remembered of rows at hand names their places."""
        other = Snapshot(self.dataset, self.newer)
        other._vector_indices = dict(self._vector_indices)
        return other

    def expect_rows(self) -> None:
        """Before they are at hand: which of them pass one filter at least is to be remembered."""
        self.marks = self._marks(self.num_rows)

    def _marks(self, rows: int) -> Recent[tuple[str, str], Marked]:
        return Recent(lambda _, marked: marked.nbytes, max_bytes=max(32_000_000, 8 * rows))

    @cached_property
    def num_rows(self) -> int:
        return int(self.dataset.count_rows())

    @cached_property
    def row_ids_end(self) -> int | None:
        """No row has an id from here on; None where ids are places in files, as another client may have it."""
        if not self.dataset.has_stable_row_ids:
            return None
        end = 0
        for batch in self.dataset.scanner(columns=[], with_row_id=True).to_batches():
            deadline.check()
            end = max(end, int(pc.max(batch[ROW_ID]).as_py()) + 1) if len(batch) else end
        return end

    @cached_property
    def identity(self) -> tuple[str, int, str]:
        """Equal for the same version of the same table only: one that was dropped and made again counts from 1 too."""
        fragments = self.dataset.get_fragments()
        files = fragments[-1].data_files() if fragments else []
        return table_id(self.schema), self.version, files[0].path if files else ""

    @cached_property
    def models(self) -> dict[str, str]:
        """The model of each vector column that says which it is of."""
        vectors = [f.name for f in self.schema if FINGERPRINT_KEY in (f.metadata or {})]
        found = {name: self.fingerprint(name) for name in vectors}
        return {name: f"{f.model} {f.pretrained}".strip() for name, f in found.items()}

    def fingerprint(self, column: str) -> Fingerprint:
        """Of a vector column. Raises UserError where there is no such column."""
        if column not in self._fingerprints:
            metadata = self._vectors(column).metadata or {}
            if FINGERPRINT_KEY not in metadata:
                raise UserError(
                    f"the column {column} carries no fingerprint, so no text or image can be compared with it",
                    "search by vector or id, or embed the table with clipmill",
                )
            self._fingerprints[column] = Fingerprint.from_json(metadata[FINGERPRINT_KEY].decode())
        return self._fingerprints[column]

    def dim(self, column: str) -> int:
        """Of a vector column. Raises UserError where there is no such column."""
        return int(self._vectors(column).type.list_size)

    def _vectors(self, column: str) -> pa.Field:
        if column not in self._vector_fields:
            names = ", ".join(self._vector_fields)
            raise UserError(f"{column} is no vector column of the table", f"there is: {names}")
        return self._vector_fields[column]

    @cached_property
    def _vector_fields(self) -> dict[str, pa.Field]:
        return {f.name: f for f in self.schema if pa.types.is_fixed_size_list(f.type)}

    def count(self, predicate: str | None) -> int:
        """Rows that pass a predicate; remembered, because pages and facets ask again and again."""
        if predicate is None:
            return self.num_rows

        def counted() -> int:
            if (found := self.marked(predicate)) is not None:
                return found.count + len(found.elsewhere)
            if (ids := self.passing.get(predicate)) is not None:
                return len(ids)
            if (told := self.told(predicate)) is not None:
                return int(np.count_nonzero(told))
            with filter_errors(predicate):
                if not deadline.is_set():
                    return int(self.dataset.count_rows(predicate))
                return sum(scanner.count_rows() for scanner in scanners(self.dataset, predicate))

        return self._counts.get_or_make(predicate, counted)

    def note_tags(self, predicate: str, asked: TagFilter) -> None:
        """That a predicate asks for these tags and nothing else."""
        if self.tags is not None:
            self._of_tags.put(predicate, asked)

    def marked(self, predicate: str) -> Marked | None:
        """Which rows at hand pass; None unless the tags at hand say so."""
        asked, held = self._of_tags.get(predicate), self.tags
        if held is None or asked is None:
            return None
        column, tags = held
        rows = len(self.warm[column])
        return self.marks.get_or_make((column, predicate), lambda: Marked.made(tags.marks(*asked), rows))

    def told(self, predicate: str, row_ids_K: npt.NDArray[np.uint64] | None = None) -> npt.NDArray[np.bool_] | None:
        """Of which rows at hand a filter is true, in their order, or of which of these; None unless they say so."""
        if self.rows is None or (asked := conditions.conditions(predicate, self.schema)) is None:
            return None
        if row_ids_K is None:
            return conditions.marks(self.rows, asked)
        return conditions.marks_of(self.rows, asked, row_ids_K)

    @cached_property
    def has_null_tags(self) -> bool:
        """Whether any row has no tags at all, so that a filter against tags must let it pass."""
        if "tags" not in self.schema.names:
            return False
        found = self.dataset.scanner(columns=[], filter="tags IS NULL", limit=1, with_row_id=True).to_table()
        return len(found) > 0

    def check_tags(self, column: str) -> None:
        """Raises UserError for what are no tags: the name becomes a part of the predicate."""
        there = ["tags"] if "tags" in self.schema.names else []
        there += [set_column("tags", slug) for slug in vocabularies_in(self.schema)]
        if column not in there:
            said = "the table has no tags" if column == "tags" else f"{column} is no column of tags"
            hint = f"there is: {', '.join(there)}" if there else "ask without tags"
            raise self.newer.unknown(said, hint)

    @cached_property
    def labels(self) -> frozenset[str]:
        """Every tag that a row has: one pass over the column."""
        if "tags" not in self.schema.names:
            return frozenset()
        found: set[str] = set()
        for batch in self.dataset.scanner(columns=["tags"], batch_size=65_536).to_batches():
            found.update(label for label in pc.unique(batch["tags"].flatten()).to_pylist() if label is not None)
        return frozenset(found)

    @cached_property
    def full_text_tokenizer(self) -> str:
        """How the captions' index tells words apart: icu, or simple in tables of older releases; empty without one."""
        for index in self._indices:
            if list(index.field_names) == ["caption"]:
                return str((index.details or {}).get("base_tokenizer", ""))
        return ""

    @cached_property
    def full_text_is_whole(self) -> bool:
        """Whether the captions' index has all rows: what others weigh depends on the filter they are asked under."""
        found = [index for index in self._indices if list(index.field_names) == ["caption"]]
        held = {fragment_id for index in found for segment in index.segments for fragment_id in segment.fragment_ids}
        return all(fragment.fragment_id in held for fragment in self.dataset.get_fragments())

    @cached_property
    def _indices(self) -> list[Any]:
        return list(self.dataset.describe_indices())

    def index_names(self, column: str) -> dict[str, str]:
        """Kind by name of the indices on one column."""
        return {i.name: str(i.index_type) for i in self._indices if list(i.field_names) == [column]}

    def vector_index(self, column: str) -> VectorIndex | None:
        if column not in self._vector_indices:
            name = next(iter(self.index_names(column)), None)
            try:
                index = read_vector_index(self.dataset, name) if name is not None else None
            except DamagedIndex as error:
                self.without_index(column, error)
                return None
            if index is not None and index.metric != "cosine":  # as LanceDB's are, unless it is told
                why = f"the index {index.name} of {column} is of {index.metric} distances"
                self.without_index(column, UserError(why, "`clipmill index TABLE --rebuild` makes one of cosines"))
            else:
                self._vector_indices[column] = with_curve(index, stored_curve(self.dataset, column)) if index else None
        return self._vector_indices[column]

    def without_index(self, column: str, error: ClipmillError) -> None:
        """Compare every row from now on, which takes longer and gives the true nearest."""
        logger.warning("%s: every row is compared instead; %s", error.message, error.hint)
        self._vector_indices[column] = None

    def index_bytes(self, column: str) -> int:
        """Of the files of its index: what it takes in memory, nearly."""
        found = [index for index in self._indices if list(index.field_names) == [column]]
        return sum(index.total_size_bytes or 0 for index in found)

    def assume(self, column: str, index: VectorIndex) -> None:
        """Search the column by another description of its index than the table has: to try one."""
        self._vector_indices[column] = index

    def default_columns(self) -> tuple[str, ...]:
        """Everything a person reads: no vectors, no thumbnails, none of a set under way."""
        return self._default_columns

    @cached_property
    def _default_columns(self) -> tuple[str, ...]:
        hidden = waiting(self.schema)
        return tuple(
            f.name
            for f in self.schema
            if not pa.types.is_fixed_size_list(f.type) and not pa.types.is_binary(f.type) and f.name not in hidden
        )

    def take(self, row_ids_K: npt.NDArray[np.uint64], columns: tuple[str, ...]) -> pa.Table:
        """Columns of rows by row id, in this order."""
        if not len(row_ids_K):
            return pa.schema([self.schema.field(name) for name in columns]).empty_table()
        found = self.rows.take(row_ids_K, columns) if self.rows else None
        return self.dataset._take_rows(row_ids_K.tolist(), columns=list(columns)) if found is None else found

    def check_columns(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """Each once, because Lance reads none twice."""
        known = self.schema.names
        for name in columns:
            if name not in known:
                raise self.newer.unknown(f"{name} is no column of the table", f"there is: {', '.join(known)}")
        return tuple(dict.fromkeys(columns))


def _weigh_facet(_: Any, facet: Any) -> int:
    return sum(100 + len(value) for value, _ in facet.values)


def _weigh_ranking(key: tuple[Any, ...], hits: pa.Table) -> int:
    return 500 + int(hits.nbytes) + sum(len(part) for part in key if isinstance(part, (str, bytes)))
