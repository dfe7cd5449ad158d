"""The indices of a set that is not in use yet, so that promotion changes names and nothing else."""

from collections.abc import Callable

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.running.finish import SMALL
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column


def build_set_index(tables: Tables, slug: str, *, tell: Callable[[str], None] = lambda _: None) -> str:
    """Of its vectors as their size asks for, and of its tags; returns in a few words what there is. Each index is one
    commit: killed, the next call builds what is not there. `tell` hears of each before it is begun."""
    rows = tables.open()
    if rows.count_rows() < SMALL:
        return "none needed for so few rows"
    indexed = {name for index in rows.describe_indices() for name in index.field_names}
    columns = [set_column(base, slug) for base in ("vector", "caption_vector") if base == "vector" or base in indexed]
    report = build_index(
        f"{tables.database}/{tables.name}", IndexOptions(columns=tuple(columns)), tables.storage, tell=tell
    )
    tags = set_column("tags", slug)
    if tags not in indexed:
        tell(f"{tags}: building LABEL_LIST")
        tables.open().create_scalar_index(tags, "LABEL_LIST", name=f"{tags}_idx", replace=True)
    first = report.vectors[0]
    if not first.kind:
        return "none needed: the vectors are compared one by one"
    return first.kind + (f", recall@10 {first.recall.recall:.3f}" if first.recall else "")
