"""A large vector index in segments: some fragments each, built apart, merged and committed as one.

What was built is noted beside the table after every segment, so a run that was killed goes on with the next one. The
same centroids and rotation make the segments one index. Nothing is visible before the commit.
P: partitions. D: dimension.
"""

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.indexing.centroids import centroids
from clipmill.jobs.indexing.names import index_name
from clipmill.jobs.indexing.partitions import assigned
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.schemas.words import counted

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """One segment's work, as it is sent to a node. `model` is the rotation of IVF_RQ, JSON as Lance makes it."""

    uri: str
    version: int
    column: str
    plan: VectorPlan
    fragment_ids: tuple[int, ...]
    centroids_PD: npt.NDArray[np.float32]
    model: str
    options: dict[str, str]  # storage options; may hold credentials, so never printed

    def __repr__(self) -> str:
        return f"SegmentTask({self.uri}, {self.column}, fragments {self.fragment_ids})"


def build_segment(task: SegmentTask) -> str:
    """Write one segment, unseen by readers; its description as JSON."""
    dataset = lance_module().dataset(task.uri, version=task.version, storage_options=task.options or None)
    with assigned(dataset, task.column, task.centroids_PD, task.fragment_ids) as partitions:
        segment = dataset.create_index_uncommitted(
            task.column,
            task.plan.kind,
            name=index_name(dataset, task.column),
            metric="cosine",
            replace=True,
            fragment_ids=list(task.fragment_ids),
            ivf_centroids=task.centroids_PD,
            num_partitions=task.plan.num_partitions,
            rabitq_model=task.model,
            num_bits=task.plan.bits,
            **partitions,
        )
    return to_json(segment)


class Checkpoint:
    """What is done of one build: `<table>/_clipmill/index-<column>.json` and the centroids beside it.

    The key names everything that must be the same for a segment to be of use; another key starts over.
    """

    def __init__(self, tables: Tables, column: str, key: str) -> None:
        self._base = f"{tables.place()}/_clipmill/index-{column}"
        self._key, self._storage = key, tables.storage
        self.model = ""
        self.centroids_PD: npt.NDArray[np.float32] | None = None
        self.segments: dict[str, str] = {}
        self._read()

    def _read(self) -> None:
        from clipmill.workers.store.storage import get_bytes

        try:
            state = json.loads(get_bytes(f"{self._base}.json", self._storage, max_bytes=64_000_000))
            if state["key"] != self._key:
                return
            centroids = get_bytes(f"{self._base}.npy", self._storage, max_bytes=1_000_000_000)
        except FileNotFoundError:
            return
        self.model, self.segments = state["model"], state["segments"]
        self.centroids_PD = np.load(io.BytesIO(centroids), allow_pickle=False)

    def begin(self, centroids_PD: npt.NDArray[np.float32], model: str) -> None:
        from clipmill.workers.store.storage import put_bytes

        out = io.BytesIO()
        np.save(out, centroids_PD, allow_pickle=False)
        put_bytes(f"{self._base}.npy", out.getvalue(), self._storage)
        self.centroids_PD, self.model, self.segments = centroids_PD, model, {}
        self._write()

    def add(self, group: str, segment: str) -> None:
        self.segments[group] = segment
        self._write()

    def finish(self) -> None:
        """What the index was built with stays, for rows that come later."""
        self._key = ""  # matches no build: the segments belong to the table now
        self.segments = {}
        self._write()

    def _write(self) -> None:
        from clipmill.workers.store.storage import put_bytes

        state = {"key": self._key, "model": self.model, "segments": self.segments}
        put_bytes(f"{self._base}.json", json.dumps(state).encode(), self._storage)


def groups(dataset: Any, rows_per_segment: int, *, without: Container[int] = ()) -> list[tuple[int, ...]]:
    """Fragment ids of each segment, in order; a fragment is never cut. `without`: fragments to leave alone."""
    found: list[tuple[int, ...]] = []
    held: list[int] = []
    rows = 0
    for fragment in dataset.get_fragments():
        if fragment.fragment_id in without:
            continue
        count = fragment.count_rows()
        if held and rows + count > rows_per_segment:
            found.append(tuple(held))
            held, rows = [], 0
        held.append(fragment.fragment_id)
        rows += count
    return [*found, tuple(held)] if held else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Of one table's indices. `run` takes tasks and yields (place, description) as they finish: here in turn, or on a
    cluster's nodes."""

    tables: Tables
    rows_per_segment: int
    run: Callable[[Sequence[SegmentTask]], Iterator[tuple[int, str]]]
    tell: Tell


def in_turn(tasks: Sequence[SegmentTask]) -> Iterator[tuple[int, str]]:
    for place, task in enumerate(tasks):
        built = build_segment(task)
        memory.give_back()  # what one took is not added to what the next one takes
        yield place, built


def build_in_segments(dataset: Any, column: str, plan: VectorPlan, builder: Builder) -> int:
    """Build, merge and commit; the number of segments built now (those of an earlier run are taken over)."""
    parts = groups(dataset, builder.rows_per_segment)
    key = hashlib.sha256(json.dumps([dataclasses.asdict(plan), column, parts]).encode()).hexdigest()
    state = Checkpoint(builder.tables, column, key)
    if state.centroids_PD is None:
        builder.tell(f"{column}: training {counted(plan.num_partitions, 'partition')}")
        state.begin(centroids(dataset, column, plan.num_partitions), rotation(dataset, column, plan))
        memory.give_back()  # what training took is not added to what building takes
    missing = [part for part in parts if _name(part) not in state.segments]
    tasks = _tasks(dataset, column, plan, state, missing)
    for place, segment in builder.run(tasks):
        state.add(_name(missing[place]), segment)
        builder.tell(f"{column}: segment {len(state.segments)} of {len(parts)} built")
    merged = dataset.merge_existing_index_segments([from_json(text) for text in state.segments.values()])
    dataset.commit_existing_index_segments(index_name(dataset, column), column, [merged])
    state.finish()
    return len(missing)


def add_segment(dataset: Any, column: str, plan: VectorPlan, builder: Builder) -> bool:
    """Bring the rows that no part of the column's index holds into it, as one part more. False where what it was built
    with is not known here: Lance knows it, but finds partitions slowly (`jobs.indexing.partitions`)."""
    name = index_name(dataset, column)
    state = Checkpoint(builder.tables, column, "")  # of a build that ended
    if not state.model or state.centroids_PD is None or not _is_of(dataset, name, state.centroids_PD):
        return False
    (described,) = [index for index in dataset.describe_indices() if index.name == name]
    held = {fragment for segment in described.segments for fragment in segment.fragment_ids}
    parts = groups(dataset, builder.rows_per_segment, without=held)
    built = [from_json(text) for _, text in builder.run(_tasks(dataset, column, plan, state, parts))]
    if built:
        merged = dataset.merge_existing_index_segments(built) if len(built) > 1 else built[0]
        dataset.commit_existing_index_segments(name, column, [merged])
    return bool(built)


def _is_of(dataset: Any, name: str, centroids_PD: npt.NDArray[np.float32]) -> bool:
    """Whether an index has these centroids, which Lance keeps as the vectors are, in float16."""
    stored = dataset.get_ivf_model(name).centroids
    if stored is None or len(stored) != len(centroids_PD):
        return False
    flat = np.asarray(stored.flatten()).astype(np.float32)
    return flat.size == centroids_PD.size and bool(np.allclose(flat, centroids_PD.reshape(-1), rtol=0, atol=1e-3))


def rotation(dataset: Any, column: str, plan: VectorPlan) -> str:
    """Of IVF_RQ, drawn anew: all parts of an index must have the same."""
    dim = dataset.schema.field(column).type.list_size
    model: str = lance_module().lance.indices.build_rq_model(dim, plan.bits)
    return model


def _name(part: tuple[int, ...]) -> str:
    return ",".join(map(str, part))


def _tasks(
    dataset: Any, column: str, plan: VectorPlan, state: Checkpoint, parts: Sequence[tuple[int, ...]]
) -> list[SegmentTask]:
    assert state.centroids_PD is not None
    return [
        SegmentTask(
            uri=dataset.uri,
            version=dataset.version,
            column=column,
            plan=plan,
            fragment_ids=part,
            centroids_PD=state.centroids_PD,
            model=state.model,
            options=dict(dataset.latest_storage_options() or {}),
        )
        for part in parts
    ]


def to_json(segment: Any) -> str:
    """Lance's description of a segment as JSON; it ships a dataclass that only pickles."""
    raw = {f.name: getattr(segment, f.name) for f in dataclasses.fields(segment)}
    raw["fragment_ids"] = sorted(raw["fragment_ids"])
    raw["created_at"] = raw["created_at"].isoformat() if raw["created_at"] else None
    raw["files"] = [[f.path, f.size_bytes] for f in raw["files"] or []]
    if raw["index_details"]:
        name, data = raw["index_details"]
        raw["index_details"] = [name, base64.b64encode(data).decode()]
    return json.dumps(raw)


def from_json(text: str) -> Any:
    from lance.dataset import Index, IndexFile

    raw = json.loads(text)
    raw["fragment_ids"] = set(raw["fragment_ids"])
    raw["created_at"] = datetime.fromisoformat(raw["created_at"]) if raw["created_at"] else None
    raw["files"] = [IndexFile(path=path, size_bytes=size) for path, size in raw["files"]] or None
    if raw["index_details"]:
        name, data = raw["index_details"]
        raw["index_details"] = (name, base64.b64decode(data))
    return Index(**raw)
