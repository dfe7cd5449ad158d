"""The indices of a set that is not in use yet, so that promotion changes names and nothing else."""

from collections.abc import Callable
from typing import Any

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.plan import Kind
from clipmill.jobs.indexing.vector import existing_plan
from clipmill.jobs.running.finish import SMALL
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column

_KINDS: dict[str, Kind] = {"IVF_RQ": "ivf_rq", "IVF_HNSW_SQ": "hnsw_sq"}


def kind_in_use(rows: Any) -> Kind | None:
    """Of the index that the vectors in use have: a set that is to take their place needs one of its kind, also where
    its size alone asks for none. None where they have no index."""
    there = existing_plan(rows, "vector")
    return None if there is None else _KINDS.get(there[1].kind, "auto")


def build_set_index(tables: Tables, slug: str, *, tell: Callable[[str], None] = lambda _: None) -> str:
    """Of its vectors as those in use have one, or their size asks for, and of its tags; returns in a few words what
    there is. Each index is one commit: killed, the next call builds what is not there. `tell` hears of each before it
    is begun."""
    rows = tables.open()
    kind = kind_in_use(rows)
    if rows.count_rows() < SMALL and kind is None:
        return "none needed for so few rows"
    indexed = {name for index in rows.describe_indices() for name in index.field_names}
    columns = [set_column(base, slug) for base in ("vector", "caption_vector") if base == "vector" or base in indexed]
    wanted = kind if kind is not None and existing_plan(rows, columns[0]) is None else "auto"
    options = IndexOptions(kind=wanted, columns=tuple(columns))
    report = build_index(f"{tables.database}/{tables.name}", options, tables.storage, tell=tell)
    tags = set_column("tags", slug)
    if tags not in indexed:
        tell(f"{tags}: building LABEL_LIST")
        tables.open().create_scalar_index(tags, "LABEL_LIST", name=f"{tags}_idx", replace=True)
    first = report.vectors[0]
    if not first.kind:
        return "none needed: the vectors are compared one by one"
    return first.kind + (f", recall@10 {first.recall.recall:.3f}" if first.recall else "")
