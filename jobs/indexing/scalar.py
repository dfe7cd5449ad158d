"""Indices for filters and words: ids, units, tags, every kept column, and the captions' full text.

A filter on a column without an index is read row by row: at a million rows 132 ms beside 1 ms (docs/querying.md).
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.indexing.names import index_name
from clipmill.schemas.columns import waiting

BITMAP_DISTINCT = 256  # values seen in a sample; beyond this a BTREE
_SAMPLE_ROWS = 20_000
_SKIPPED = frozenset({"uri", "image_offset", "image_size", "source_etag", "tag_scores", "thumbnail"})
_FIXED = {"id": "BTREE", "unit_id": "BITMAP", "tags": "LABEL_LIST", "caption": "INVERTED", "image_hash": "BTREE"}
# Finds words by Unicode's rules and dictionaries; Lance's own splits at blanks, which Chinese has not.
TOKENIZER = "icu"
Tell = Callable[[str], None]


def wanted_indices(dataset: Any) -> dict[str, str]:
    """Index type by column, in the order of the schema. Columns of a set under way wait for promotion."""
    found = {}
    hidden = waiting(dataset.schema)
    for field in dataset.schema:
        if field.name.partition("__")[0] in _SKIPPED or field.name in hidden or pa.types.is_fixed_size_list(field.type):
            continue
        kind = _FIXED.get(field.name) or _kind(dataset, field)
        if kind:
            found[field.name] = kind
    return found


def _kind(dataset: Any, field: pa.Field) -> str:
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        return "LABEL_LIST" if pa.types.is_string(field.type.value_type) else ""
    if pa.types.is_nested(field.type) or pa.types.is_dictionary(field.type) or pa.types.is_null(field.type):
        return ""  # Lance has no index of these
    if pa.types.is_boolean(field.type):
        return "BITMAP"
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return ""
    if pa.types.is_floating(field.type) or pa.types.is_timestamp(field.type):
        return "BTREE"
    sample = dataset.scanner(columns=[field.name], limit=_SAMPLE_ROWS).to_table()[field.name]
    return "BITMAP" if pc.count_distinct(sample).as_py() <= BITMAP_DISTINCT else "BTREE"


def build(dataset: Any, *, rebuild: bool, tell: Tell) -> dict[str, str]:
    """Create what is missing and extend what is behind; one commit each. Returns what was done by column."""
    existing = {tuple(i.field_names): i for i in dataset.describe_indices()}
    rows = dataset.count_rows()
    done: dict[str, str] = {}
    behind: list[str] = []
    for column, kind in wanted_indices(dataset).items():
        index = existing.get((column,))
        if index is None or rebuild or not _tells_words_apart(index, kind):
            tell(f"{column}: building {kind}")
            options = {"with_position": False, "base_tokenizer": TOKENIZER} if kind == "INVERTED" else {}
            dataset.create_scalar_index(column, kind, name=index_name(dataset, column), replace=True, **options)
            done[column] = "built"
        elif index.num_rows_indexed < rows:
            behind.append(index.name)
            done[column] = "extended"
        else:
            done[column] = "current"
    if behind:
        tell(f"adding new rows to {', '.join(behind)}")
        dataset.optimize.optimize_indices(index_names=behind, num_indices_to_merge=1)
    return done


def is_behind(dataset: Any) -> bool:
    """Whether `build` would do something."""
    existing = {tuple(i.field_names): i for i in dataset.describe_indices()}
    rows = dataset.count_rows()
    for column, kind in wanted_indices(dataset).items():
        index = existing.get((column,))
        if index is None or index.num_rows_indexed < rows or not _tells_words_apart(index, kind):
            return True
    return False


def _tells_words_apart(index: Any, kind: str) -> bool:
    """Whether a full-text index was made with our tokenizer; those of older releases are built again, once."""
    return kind != "INVERTED" or (index.details or {}).get("base_tokenizer") == TOKENIZER
