"""The vector index of one column: trained here, built in segments, extended by what was appended.

S: sampled vectors. P: partitions. D: dimension.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.indexing.kmeans import train
from jobs.indexing.plan import VectorPlan
from jobs.indexing.segments import Builder, build_in_segments, groups

logger = logging.getLogger(__name__)

SAMPLES_PER_PARTITION = 64
MAX_SAMPLE_BYTES = 512_000_000
MAX_DELTAS = 4  # each is searched on its own; beyond this many they are merged
Tell = Callable[[str], None]


def existing_plan(dataset: Any, column: str) -> tuple[str, VectorPlan, int, int] | None:
    """Name, shape, unindexed rows and number of deltas of the column's vector index; None where it has none."""
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    for index in dataset.describe_indices():
        if list(index.field_names) != [column]:
            continue
        stats = dataset.stats.index_stats(index.name)
        parts = stats.get("indices") or [{}]
        kind = str(stats["index_type"]).upper()
        bits = int((parts[0].get("sub_index") or {}).get("num_bits") or 0)
        plan = VectorPlan(
            kind=kind,
            num_partitions=max(int(p.get("num_partitions") or 1) for p in parts),
            bits=bits if kind == "IVF_RQ" else 0,  # scalar quantisation has a number of bits too, which nobody chose
        )
        return index.name, plan, int(stats.get("num_unindexed_rows", 0)), len(parts)
    return None


def build(dataset: Any, column: str, plan: VectorPlan, *, retrain: bool, builder: Builder) -> str:
    """Bring the column's index to `plan`; returns what was done: none (there is none now), current, extended, built.

    Each step is one commit, so that a build that was killed is simply started again.
    """
    found = existing_plan(dataset, column)
    if not plan.kind:
        if found:
            dataset.drop_index(found[0])
        return "none"
    if found and not retrain and plan.serves(found[1]):
        return _extend(dataset, *found, tell=builder.tell)
    if plan.kind == "IVF_RQ" and len(groups(dataset, builder.rows_per_segment)) > 1:
        build_in_segments(dataset, column, plan, builder)
        return "built"
    builder.tell(f"{column}: training {plan.num_partitions} partitions")
    options: dict[str, Any] = {"num_partitions": plan.num_partitions}
    if plan.kind == "IVF_RQ":
        options["num_bits"] = plan.bits
    if plan.num_partitions > 1:
        options["ivf_centroids"] = centroids(dataset, column, plan.num_partitions)
    builder.tell(f"{column}: building {plan.kind}")
    dataset.create_index(column, plan.kind, name=f"{column}_idx", metric="cosine", replace=True, **options)
    return "built"


def _extend(dataset: Any, name: str, plan: VectorPlan, unindexed_rows: int, deltas: int, *, tell: Tell) -> str:
    if unindexed_rows == 0 and deltas <= MAX_DELTAS:
        return "current"
    tell(f"{name}: adding {unindexed_rows} rows")
    merge = deltas if deltas > MAX_DELTAS else 0
    dataset.optimize.optimize_indices(index_names=[name], num_indices_to_merge=merge)
    return "extended"


def centroids(dataset: Any, column: str, num_partitions: int) -> npt.NDArray[np.float32]:
    """Unit centroids (P, D) from a random sample of the stored vectors."""
    sample_SD = sample(dataset, column, num_partitions * SAMPLES_PER_PARTITION)
    return train(sample_SD, min(num_partitions, len(sample_SD)))


def sample(dataset: Any, column: str, wanted: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors (S, D) of random rows that have one, S <= wanted. Reads in runs of neighbours, which costs a
    fraction of single rows; the runs are spread over the whole table."""
    dim = dataset.schema.field(column).type.list_size
    wanted = min(wanted, MAX_SAMPLE_BYTES // (dim * 4))
    total = dataset.count_rows()
    run = 1 if total <= 4 * wanted else 16
    rng = np.random.default_rng(seed)
    starts = rng.choice(max(1, total // run), min(max(1, total // run), -(-wanted // run)), replace=False) * run
    offsets = (np.sort(starts)[:, None] + np.arange(run)).reshape(-1)
    offsets = offsets[offsets < total]
    blocks = []
    for start in range(0, len(offsets), 16_384):
        table = dataset.take(offsets[start : start + 16_384].tolist(), columns=[column])
        blocks.append(as_rows(table[column], dim))
    return normalise(np.concatenate(blocks))


def as_rows(column: pa.ChunkedArray, dim: int) -> npt.NDArray[np.float32]:
    """The vectors that are there, float32 (S, D)."""
    flat = column.drop_null().combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks) if flat.num_chunks else pa.array([], column.type)
    return np.asarray(flat.flatten()).astype(np.float32).reshape(-1, dim)


def normalise(vectors_SD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths_S = np.linalg.norm(vectors_SD, axis=1, keepdims=True)
    return (vectors_SD / np.where(lengths_S == 0, 1, lengths_S)).astype(np.float32, copy=False)
