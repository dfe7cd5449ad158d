"""The vector index of one column: trained here, built in segments, extended by what was appended."""

import logging
import os
from collections.abc import Callable
from typing import Any

from clipmill.jobs.indexing.centroids import centroids
from clipmill.jobs.indexing.names import index_name
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.indexing.segments import Builder, build_in_segments, groups

logger = logging.getLogger(__name__)

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
    dataset.create_index(column, plan.kind, name=index_name(dataset, column), metric="cosine", replace=True, **options)
    return "built"


def _extend(dataset: Any, name: str, plan: VectorPlan, unindexed_rows: int, deltas: int, *, tell: Tell) -> str:
    if unindexed_rows == 0 and deltas <= MAX_DELTAS:
        return "current"
    tell(f"{name}: adding {unindexed_rows} rows")
    merge = deltas if deltas > MAX_DELTAS else 0
    dataset.optimize.optimize_indices(index_names=[name], num_indices_to_merge=merge)
    return "extended"
