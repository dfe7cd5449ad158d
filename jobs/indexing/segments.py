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
import os
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipmill.jobs.indexing.centroids import all_centroids, operations
from clipmill.jobs.indexing.kmeans import Hold, OnCpu
from clipmill.jobs.indexing.names import METRIC, index_name
from clipmill.jobs.indexing.partitions import assigned
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.indexing.products import Products
from clipmill.jobs.table import memory
from clipmill.jobs.table.errors import is_conflict
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted

Tell = Callable[[str], None]

_NOTE_BYTES, _CENTROIDS_BYTES = 64_000_000, 1_000_000_000  # of what a build keeps beside the table, at most
_MERGED_AT_ONCE = 64  # partitions: some 20 MB of a million rows, 60 of ten million


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


def build_segment(task: SegmentTask, hold: Hold = OnCpu) -> str:
    """Write one segment, unseen by readers; its description as JSON."""
    dataset = lance_module().dataset(task.uri, version=task.version, storage_options=task.options or None)
    with assigned(dataset, task.column, task.centroids_PD, task.fragment_ids, hold=hold) as partitions:
        segment = dataset.create_index_uncommitted(
            task.column,
            task.plan.kind,
            name=index_name(dataset, task.column),
            metric=METRIC,
            replace=True,
            fragment_ids=list(task.fragment_ids),
            ivf_centroids=task.centroids_PD,
            num_partitions=task.plan.num_partitions,
            rabitq_model=task.model,
            num_bits=task.plan.bits,
            **partitions,
        )
    return to_json(segment)


class BuiltWith(NamedTuple):
    """What every part of one index must have: unit centroids (P, D), and the rotation of IVF_RQ."""

    centroids_PD: npt.NDArray[np.float32]
    model: str


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
        """What is not there, is of another build or is damaged means that it begins anew."""
        from clipmill.workers.store.errors import as_user_error
        from clipmill.workers.store.storage import get_bytes

        try:
            state = json.loads(get_bytes(f"{self._base}.json", self._storage, max_bytes=_NOTE_BYTES))
            if state["key"] != self._key:
                return
            content = get_bytes(f"{self._base}.npy", self._storage, max_bytes=_CENTROIDS_BYTES)
            model, segments = state["model"], state["segments"]
            for segment in segments.values():
                from_json(segment)
            found = _floats(content)
        except PermissionError as error:
            raise as_user_error(error, self._base) from error
        except (FileNotFoundError, UserError, ValueError, LookupError, TypeError, AttributeError):
            return
        if isinstance(model, str):
            self.centroids_PD, self.model, self.segments = found, model, segments

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
        self._key = ""  # matches no build: the segments belong to the table now
        self.segments = {}
        self._write()

    def _write(self) -> None:
        from clipmill.workers.store.storage import put_bytes

        state = {"key": self._key, "model": self.model, "segments": self.segments}
        put_bytes(f"{self._base}.json", json.dumps(state).encode(), self._storage)


def _floats(content: bytes) -> npt.NDArray[np.float32]:
    """Of a .npy file. Raises ValueError for anything but a float32 matrix as large as the file: numpy would first make
    room for as much as a header says."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 2 or is_fortran or dtype != np.float32 or 4 * shape[0] * shape[1] != len(content) - file.tell():
        raise ValueError("no matrix of float32, or cut off")
    return np.frombuffer(content, np.float32, offset=file.tell()).reshape(shape)


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
    """Of one table's indices. `run` takes tasks, and what holds centroids here, and yields (place, description) as they
    finish: here in turn, or on a cluster's nodes."""

    tables: Tables
    rows_per_segment: int
    run: Callable[[Sequence[SegmentTask], Hold], Iterator[tuple[int, str]]]
    tell: Tell
    products: Products = field(default_factory=Products)

    def hold(self, operations: float) -> Hold:
        return self.products.hold(operations, self.tell)


def in_turn(tasks: Sequence[SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
    for place, task in enumerate(tasks):
        built = build_segment(task, hold)
        memory.give_back()  # what one took is not added to what the next one takes
        yield place, built


def build_in_segments(dataset: Any, column: str, plan: VectorPlan, builder: Builder) -> int:
    """Build, merge and commit; the number of segments built now (those of an earlier run are taken over)."""
    parts = groups(dataset, builder.rows_per_segment)
    same = [dataclasses.asdict(plan), column, parts, *_home(dataset, column)]
    dim = dataset.schema.field(column).type.list_size
    state = Checkpoint(builder.tables, column, hashlib.sha256(json.dumps(same).encode()).hexdigest())
    hold = builder.hold(operations(dataset.count_rows(), dim, plan.num_partitions, train=state.centroids_PD is None))
    if state.centroids_PD is None:
        builder.tell(f"{column}: training {counted(plan.num_partitions, 'partition')}")
        state.begin(all_centroids(dataset, column, plan.num_partitions, hold), _drawn(dim, plan.bits))
        memory.give_back()  # what training took is not added to what building takes
    assert state.centroids_PD is not None
    missing = [part for part in parts if _name(part) not in state.segments]
    tasks = _tasks(dataset, column, plan, BuiltWith(state.centroids_PD, state.model), missing)
    for place, segment in builder.run(tasks, hold):
        state.add(_name(missing[place]), segment)
        builder.tell(f"{column}: segment {len(state.segments)} of {len(parts)} built")
    merged = _merged(dataset, [from_json(text) for text in state.segments.values()])
    dataset.commit_existing_index_segments(index_name(dataset, column), column, [merged])
    state.finish()
    return len(missing)


def _home(dataset: Any, column: str) -> tuple[int, list[list[str]]]:
    """The column's number, and the files that hold it, of each fragment: `promote` puts other vectors under the same
    name, in the same files where those were merged, and a fill adds some."""
    (field,) = [one.id() for one in dataset.lance_schema.fields() if one.name() == column]
    files = [
        [file.path for file in fragment.metadata.files if field in file.fields] for fragment in dataset.get_fragments()
    ]
    return field, files


def add_segment(dataset: Any, column: str, plan: VectorPlan, builder: Builder) -> bool:
    """Bring the rows that no part of the column's index holds into it, as one part more. False where that is for Lance
    to do: of an index whose rotation it does not tell or that has other distances, and where another writer changed the
    table meanwhile."""
    name = index_name(dataset, column)
    live = _built_with(dataset, name, plan)
    if live is None:
        return False
    (described,) = [index for index in dataset.describe_indices() if index.name == name]
    held = {fragment for segment in described.segments for fragment in segment.fragment_ids}
    parts = groups(dataset, builder.rows_per_segment, without=held)
    tasks = _tasks(dataset, column, plan, live, parts)
    rows = sum(dataset.get_fragment(fragment).count_rows() for part in parts for fragment in part)
    hold = builder.hold(operations(rows, live.centroids_PD.shape[1], plan.num_partitions, train=False))
    built = [from_json(text) for _, text in builder.run(tasks, hold)]
    if not built:
        return False
    try:
        merged = _merged(dataset, built)  # of one too: it packs codes as searches like them
        dataset.commit_existing_index_segments(name, column, [merged])
    except (OSError, ValueError, RuntimeError) as error:
        if not is_conflict(error):
            raise
        dataset.checkout_latest()
        return False
    return True


def _merged(dataset: Any, built: list[Any]) -> Any:
    """One segment of all. Lance would read 512 partitions at once and as many ahead, twice: of a million rows all that
    there are. It looks for this variable, named before it merged more than PQ, at its first merge."""
    os.environ.setdefault("LANCE_IVF_PQ_MERGE_PARTITION_WINDOW_SIZE", str(_MERGED_AT_ONCE))
    return dataset.merge_existing_index_segments(built)


def _built_with(dataset: Any, name: str, plan: VectorPlan) -> BuiltWith | None:
    """What all parts of the live index have: whatever lies beside the table may be of another one."""
    centroids = dataset.get_ivf_model(name).centroids
    parts = [part.get("sub_index") or {} for part in dataset.stats.index_stats(name).get("indices") or []]
    if centroids is None or len(centroids) != plan.num_partitions or not parts:
        return None
    if any(str(part.get("metric_type")).lower() != METRIC for part in parts):
        return None  # another tool's, of other distances
    flat = np.asarray(centroids.flatten()).astype(np.float32)
    fresh = json.loads(_drawn(len(flat) // len(centroids), plan.bits))
    rotations = [{key: part.get(key) for key in fresh.keys() - {"packed"}} for part in parts]
    if not parts[0].get("fast_rotation_signs") or any(one != rotations[0] for one in rotations):
        return None
    model = json.dumps(fresh | rotations[0])
    return BuiltWith(flat.reshape(len(centroids), -1), model)


def _drawn(dim: int, bits: int) -> str:
    """A rotation, JSON as Lance makes it; all parts of an index must have the same."""
    model: str = lance_module().lance.indices.build_rq_model(dim, bits)
    return model


def _name(part: tuple[int, ...]) -> str:
    return ",".join(map(str, part))


def _tasks(
    dataset: Any, column: str, plan: VectorPlan, alike: BuiltWith, parts: Sequence[tuple[int, ...]]
) -> list[SegmentTask]:
    return [
        SegmentTask(
            uri=dataset.uri,
            version=dataset.version,
            column=column,
            plan=plan,
            fragment_ids=part,
            centroids_PD=alike.centroids_PD,
            model=alike.model,
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
