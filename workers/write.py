"""Rows and rejects as Lance fragments that nobody can see until the driver commits them. One of the owners of lance."""

import contextlib
import importlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas import columns
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Picture, Sample
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.workers.store import lance_log
from clipmill.workers.store.errors import table_errors

# A unit's rejects are written in pieces of this many, so that a source of nothing but bad samples stays bounded.
REJECTS_PER_FRAGMENT = 10_000


@dataclass(slots=True, kw_only=True)
class Embedded:
    """A batch that has been through the model. B rows; vectors float32 (B, D), unit length."""

    samples: list[Sample]
    pictures: list[Picture]
    hashes: list[str]
    vectors_BD: npt.NDArray[np.float32]
    caption_vectors_BD: npt.NDArray[np.float32]  # rows of samples without a caption are undefined
    has_caption_B: npt.NDArray[np.bool_]
    tags: pa.Array
    tag_scores: pa.Array
    heads: dict[str, pa.Array] = field(default_factory=dict)  # scores by column


class RowWriter:
    """Turns embedded batches into record batches of the table's schema, and those into fragments."""

    def __init__(self, context: WorkContext, task: Task) -> None:
        self.context, self.task = context, task
        with table_errors(context.rows_uri):
            self.dataset = open_version(context.rows_uri, context.rows_version, context.options)
        self.schema: pa.Schema = self.dataset.schema
        self._may_turn = columns.has_orientation(self.schema)

    def record_batch(self, batch: Embedded) -> pa.RecordBatch:
        """Raises KeyError for a kept column that no sample knows: an invariant of the readers."""
        samples, unit, n = batch.samples, self.task.unit, len(batch.samples)
        turned = {columns.ORIENTATION: [s.orientation for s in samples]} if self._may_turn else {}
        known: dict[str, Any] = {
            "id": [s.id for s in samples],
            "uri": [s.uri for s in samples],
            "image_offset": [s.image_offset for s in samples],
            "image_size": [s.image_size for s in samples],
            "source_etag": [unit.etag] * n,
            "unit_id": [unit.unit_id] * n,
            "image_hash": batch.hashes,
            "caption": [s.caption for s in samples],
            "width": [p.width for p in batch.pictures],
            "height": [p.height for p in batch.pictures],
            "thumbnail": [p.thumbnail for p in batch.pictures],
            **turned,
            "phash": [p.phash for p in batch.pictures],
            **set_values(batch),
            **batch.heads,
        }
        arrays = []
        for field_ in self.schema:
            values = known[field_.name] if field_.name in known else [s.metadata.get(field_.name) for s in samples]
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, type=field_.type))
        return pa.record_batch(arrays, schema=self.schema)

    def write(self, batches: Iterator[pa.RecordBatch]) -> tuple[str, ...]:
        """Drain `batches` into fragments; returns their metadata as JSON, nothing for no rows."""
        return write_rows(batches, self.dataset, self.context.options)


def set_values(batch: Embedded) -> dict[str, pa.Array]:
    """What the model said, by `columns.SET_COLUMNS`."""
    return {
        "vector": _vectors(batch.vectors_BD, None),
        "caption_vector": _vectors(batch.caption_vectors_BD, ~batch.has_caption_B),
        "caption_score": _caption_scores(batch),
        "tags": batch.tags,
        "tag_scores": batch.tag_scores,
    }


def count_filled(into: dict[str, int], rows: pa.RecordBatch, names: Iterable[str]) -> None:
    """How many rows have a value in each column; no tags are none."""
    for name in names:
        column = rows.column(name)
        number = num_tagged(column) if name == "tags" else len(column) - column.null_count
        into[name] = into.get(name, 0) + number


def num_tagged(tags: pa.Array) -> int:
    return int(pc.sum(pc.greater(pc.list_value_length(tags), 0)).as_py() or 0)


@dataclass(slots=True)
class RejectWriter:
    """Collects rejects, counts them by reason, and writes them as uncommitted fragments of `__rejects`."""

    context: WorkContext
    task: Task
    fingerprint: str
    counts: dict[str, int] = field(default_factory=dict)
    fragments: list[str] = field(default_factory=list)
    _pending: list[Reject] = field(default_factory=list)

    def add(self, reject: Reject) -> None:
        self.counts[reject.reason] = self.counts.get(reject.reason, 0) + 1
        self._pending.append(reject)
        if len(self._pending) >= REJECTS_PER_FRAGMENT:
            self.flush()

    def dataset(self) -> Any:
        """What is committed of `__rejects`, at its newest."""
        lance_log.quiet()
        import lance

        with table_errors(self.context.rejects_uri):
            return lance.dataset(self.context.rejects_uri, storage_options=self.context.options or None)

    def flush(self) -> None:
        if not self._pending:
            return
        table = self._table(self._pending)
        self._pending = []
        self.fragments += write_reject_fragments(table, self.context.rejects_uri, self.context.options)

    def _table(self, rejects: list[Reject]) -> pa.Table:
        return reject_table(
            rejects,
            unit_id=self.task.unit.unit_id,
            run=self.context.run,
            attempt=self.task.attempt,
            fingerprint=self.fingerprint,
            table_id=self.context.table_id,
        )


def reject_table(
    rejects: Sequence[Reject], *, unit_id: str, run: str, attempt: int, fingerprint: str, table_id: str = ""
) -> pa.Table:
    """Rows of `__rejects`; details are cut to a line of 300 characters, because they may quote untrusted bytes."""
    rows = [
        {
            "id": r.id,
            "uri": r.uri,
            "reason": str(r.reason),
            "detail": " ".join(r.detail.split())[:300],
            "unit_id": unit_id,
            "run": run,
            "attempt": attempt,
            "fingerprint": fingerprint,
            "table_id": table_id,
        }
        for r in rejects
    ]
    return pa.Table.from_pylist(rows, schema=columns.REJECTS)


def write_reject_fragments(table: pa.Table, rejects_uri: str, options: dict[str, str]) -> list[str]:
    from lance.fragment import write_fragments

    with table_errors(rejects_uri, doing="write to"):
        fragments = write_fragments(
            table, rejects_uri, schema=columns.REJECTS, mode="append", storage_options=options or None
        )
    return list(map(fragment_json, fragments))


def write_rows(batches: Iterator[pa.RecordBatch], dataset: Any, options: dict[str, str]) -> tuple[str, ...]:
    """`write_row_fragments` as JSON, nothing for no rows.

    An exception inside `batches` crosses Arrow's C interface as text, so the original is raised again here.
    """
    failure: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            failure.append(error)
            raise

    first = next(batches, None)
    if first is None:
        return ()

    def all_batches() -> Iterator[pa.RecordBatch]:
        yield first
        yield from guarded()

    try:
        fragments = write_row_fragments(all_batches(), dataset, options)
    except BaseException:
        if failure:
            raise failure[0] from None
        raise
    return tuple(map(fragment_json, fragments))


def write_row_fragments(batches: Iterable[pa.RecordBatch], dataset: Any, options: dict[str, str]) -> list[Any]:
    """Uncommitted fragments of rows, against the field ids of exactly this version of the table."""
    from lance.fragment import write_fragments

    reader = pa.RecordBatchReader.from_batches(dataset.schema, batches)
    with table_errors(str(dataset.uri), doing="write to"):
        return list(
            write_fragments(reader, dataset, schema=dataset.schema, mode="append", storage_options=options or None)
        )


def open_version(uri: str, version: int, options: dict[str, str]) -> Any:
    lance_log.quiet()
    import lance

    return lance.dataset(uri, version=version, storage_options=options or None)


def import_lance() -> None:
    """So that the first unit need not."""
    importlib.import_module("lance.fragment")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFile:
    """A file of some columns of one fragment, which nobody sees until it is committed. `fields`: ids of its leaves."""

    fragment: int
    path: str
    fields: tuple[int, ...]
    major: int
    minor: int
    rows: int  # that it fills and that were null

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "ColumnFile":
        raw = json.loads(text)
        return ColumnFile(**{**raw, "fields": tuple(raw["fields"])})


def write_column_file(
    dataset: Any, fragment: int, batches: Iterable[pa.RecordBatch], options: dict[str, str], *, rows: int
) -> ColumnFile:
    """`batches` hold every physical row of the fragment, deleted ones too, of some columns of `dataset`."""
    from lance.file import LanceFileWriter

    name = f"{uuid.uuid4()}.lance"
    version = str(dataset.data_storage_version)
    writer: Any = None
    names: list[str] = []
    with table_errors(str(dataset.uri), doing="write to"), contextlib.ExitStack() as closing:
        for batch in batches:
            if writer is None:
                names = batch.schema.names
                made = LanceFileWriter(
                    f"{dataset.uri}/data/{name}", batch.schema, version=version, storage_options=options or None
                )
                writer = closing.enter_context(made)
            writer.write_batch(batch)
    major, minor = (int(part) for part in version.split("."))
    return ColumnFile(
        fragment=fragment, path=name, fields=tuple(leaf_ids(dataset, names)), major=major, minor=minor, rows=rows
    )


def leaf_ids(dataset: Any, names: Sequence[str]) -> list[int]:
    """Field ids as a data file of these columns lists them: those of fields with values of their own, in that order."""
    fields = {one.name(): one for one in dataset.lance_schema.fields()}

    def leaves(one: Any) -> Iterator[int]:
        children = one.children()
        for child in children:
            yield from leaves(child)
        if not children:
            yield int(one.id())

    return [leaf for name in names for leaf in leaves(fields[name])]


def fragment_json(fragment: Any) -> str:
    return json.dumps(fragment.to_json())


def _vectors(vectors_BD: npt.NDArray[np.float32], null_B: npt.NDArray[np.bool_] | None) -> pa.Array:
    """float16 (B, D) as a fixed-size list; rows under `null_B` become null."""
    half = np.ascontiguousarray(vectors_BD, dtype=np.float16)
    if null_B is not None and null_B.any():
        half = half.copy()
        half[null_B] = 0
    mask = None if null_B is None else pa.array(null_B)
    return pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1], mask=mask)


def _caption_scores(batch: Embedded) -> pa.Array:
    """Cosine of image and caption, clipped to [-1, 1]; null where there is no caption."""
    cosines_B = np.einsum("bd,bd->b", batch.vectors_BD, batch.caption_vectors_BD).clip(-1.0, 1.0)
    return pa.array(cosines_B.astype(np.float32), mask=~batch.has_caption_B)
