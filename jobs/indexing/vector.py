"""The vector index of one column: trained here, built in segments, extended by what was appended."""

import contextlib
from typing import Any

from clipmill.jobs.indexing.centroids import all_centroids, nothing_to_train, operations
from clipmill.jobs.indexing.names import METRIC, index_name
from clipmill.jobs.indexing.partitions import assigned, temporary_folder
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.indexing.segments import Builder, add_segment, build_in_segments, groups
from clipmill.jobs.querying.snapshot import read_vector_index
from clipmill.jobs.table import memory
from clipmill.schemas.text.words import counted

MAX_DELTAS = 4  # each is searched on its own; beyond this many they are merged


def existing_plan(dataset: Any, column: str) -> tuple[str, VectorPlan, int, int] | None:
    """Name, shape, unindexed rows and number of deltas of the column's vector index; None where it has none. Raises
    DamagedIndex."""
    for described in dataset.describe_indices():
        if list(described.field_names) == [column]:
            index = read_vector_index(dataset, described.name)
            plan = VectorPlan(kind=index.kind, num_partitions=index.num_partitions, bits=index.bits)
            return index.name, plan, index.unindexed_rows, index.deltas
    return None


def _names(dataset: Any, column: str) -> list[str]:
    """Another tool may have made several on one column."""
    return [str(index.name) for index in dataset.describe_indices() if list(index.field_names) == [column]]


def other_metric(dataset: Any, column: str) -> str:
    """What the column's index measures where that is no cosine, as LanceDB's are unless it is told; else empty. Lance
    compares every row then."""
    for index in dataset.describe_indices():
        if list(index.field_names) == [column]:
            metric = str((index.details or {}).get("metric_type") or METRIC).lower()
            return "" if metric == METRIC else metric
    return ""


def build(dataset: Any, column: str, plan: VectorPlan, *, retrain: bool, builder: Builder) -> str:
    """Bring the column's index to `plan`; returns what was done: none (there is none now), current, extended, built.

    Each step is one commit, so that a build that was killed is simply started again.
    """
    found = None if retrain else existing_plan(dataset, column)  # which may be damaged
    if not plan.kind:
        for name in _names(dataset, column):
            dataset.drop_index(name)
        return "none"
    if found and plan.serves(found[1]):
        return _extend(dataset, column, found, builder)
    if plan.kind == "IVF_RQ" and len(groups(dataset, builder.rows_per_segment)) > 1:
        build_in_segments(dataset, column, plan, builder)
        return "built"
    _build_at_once(dataset, column, plan, builder)
    return "built"


def _build_at_once(dataset: Any, column: str, plan: VectorPlan, builder: Builder) -> None:
    builder.tell(f"{column}: training {counted(plan.num_partitions, 'partition')}")
    options: dict[str, Any] = {"num_partitions": plan.num_partitions}
    with contextlib.ExitStack() as stack:
        stack.enter_context(temporary_folder())
        if plan.num_partitions > 1:
            dim = dataset.schema.field(column).type.list_size
            hold = builder.hold(operations(dataset.count_rows(), dim, plan.num_partitions, train=True))
            centroids_PD = options["ivf_centroids"] = all_centroids(dataset, column, plan.num_partitions, hold)
            memory.give_back()  # what training took is not added to what building takes
            options |= stack.enter_context(assigned(dataset, column, centroids_PD, hold=hold))
        if plan.kind == "IVF_RQ":
            options["num_bits"] = plan.bits
        builder.tell(f"{column}: building {plan.kind}")
        name = index_name(dataset, column)
        try:
            dataset.create_index(column, plan.kind, name=name, metric=METRIC, replace=True, **options)
        except RuntimeError as error:
            if "KMeans cannot train" not in str(error):
                raise
            raise nothing_to_train(column) from None


def is_behind(dataset: Any, column: str, plan: VectorPlan) -> bool:
    """Whether `build` would do something."""
    found = existing_plan(dataset, column)
    if found is None or not plan.kind:
        return bool(plan.kind) or found is not None
    _, existing, unindexed_rows, deltas = found
    return not plan.serves(existing) or unindexed_rows > 0 or deltas > MAX_DELTAS


def _extend(dataset: Any, column: str, found: tuple[str, VectorPlan, int, int], builder: Builder) -> str:
    name, plan, unindexed_rows, deltas = found
    if unindexed_rows == 0 and deltas <= MAX_DELTAS:
        return "current"
    builder.tell(f"{name}: adding {counted(unindexed_rows, 'row')}")
    if unindexed_rows and plan.kind == "IVF_RQ" and add_segment(dataset, column, plan, builder):
        dataset.checkout_latest()
        unindexed_rows, deltas = 0, deltas + 1
    if unindexed_rows or deltas > MAX_DELTAS:
        merge = deltas if deltas > MAX_DELTAS else 0
        with temporary_folder():
            dataset.optimize.optimize_indices(index_names=[name], num_indices_to_merge=merge)
    return "extended"
