"""The indices: their files are there, they give what a scan gives, and the vector index finds what is near."""

from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.jobs.indexing.recall import measure
from clipmill.jobs.querying.curve import stored_report
from clipmill.jobs.querying.filters import quote
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.files import index_bytes, readable
from clipmill.jobs.verifying.report import Problems, Report

RECALL_LOST = 0.15  # below what was measured when the index was built or extended; sampled queries vary by 0.1
LOST_AT_ONCE = 0.05  # where the rows are those of that time: the same questions are asked, and find what they found
LEAST_RECALL = 0.5  # where nothing was measured
AGAIN = "build it again: `clipmill index TABLE --rebuild`"
# Words of six letters and more that a full-text index leaves out as saying nothing (Snowball's English list).
_STOP_WORDS = (
    "against because before between cannot during further having herself himself itself ourselves should theirs "
    "themselves through yourself yourselves"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
PROBES = 8  # rows that are looked up in each scalar index


def check_indices(tables: Tables, rows: Any, report: Report, seed: int, say: Problems) -> None:
    """Names every index that is damaged, or that answers otherwise than the rows do."""
    there = index_bytes(tables)
    picks = np.random.default_rng(seed).choice(report.rows, size=min(PROBES, report.rows), replace=False)
    for index in rows.describe_indices():
        damaged = False
        for segment in index.segments:
            stated, found = segment.size_bytes, there.get(str(segment.uuid), 0)
            if segment.base_id is None and stated and found != stated:
                say("indices", f"index {index.name}: {found:,} bytes of {stated:,} are there")
                damaged = True
        if damaged or not report.rows:
            continue
        (column, *others) = index.field_names
        if others or column not in rows.schema.names:
            continue
        with readable(f"index {index.name}", say):
            if pa.types.is_fixed_size_list(rows.schema.field(column).type):
                _check_vector_index(rows, index.name, column, report, say)
            else:
                values = rows.take(np.sort(picks).tolist(), columns=["id", column]).to_pylist()
                _check_scalar_index(rows, index.name, column, values, say)


def _check_vector_index(rows: Any, name: str, column: str, report: Report, say: Problems) -> None:
    found = measure(rows, column)
    stored = stored_report(rows, column) or {}
    stated = (stored.get("recall") or {}).get("recall")
    newest = max((fragment.fragment_id for fragment in rows.get_fragments()), default=-1)
    is_same = (stored.get("rows"), stored.get("newest_fragment")) == (report.rows, newest)
    least = LEAST_RECALL if stated is None else stated - (LOST_AT_ONCE if is_same else RECALL_LOST)
    if column == "vector":
        report.recall = round(found.recall, 4)
    if found.queries and found.recall < least:
        was = f", it was {stated:.2f}" if stated is not None else ""
        say("indices", f"index {name}: recall@{found.k} is {found.recall:.2f}{was}; {AGAIN}")


def _check_scalar_index(rows: Any, name: str, column: str, probes: list[dict[str, Any]], say: Problems) -> None:
    """Every probed row is found through the index by its own value."""
    for probe in probes:
        value = probe[column]
        if value is None or "\0" in str(value):  # NUL cannot be asked for
            continue
        if not _finds(rows, column, value, str(probe["id"])):
            say(
                "indices",
                f"index {name}: row {probe['id']} is not found by its {column}; {AGAIN}",
            )
            return


def _finds(rows: Any, column: str, value: Any, row_id: str) -> bool:
    field = rows.schema.field(column)
    if column == "caption":
        return _finds_words(rows, column, value, row_id)
    if pa.types.is_list(field.type):
        where = " AND ".join(f"array_has({column}, {quote(item)})" for item in value[:3] if isinstance(item, str))
    elif isinstance(value, str):
        where = f"{column} = {quote(value)}"
    elif isinstance(value, bool):
        where = f"{column} = {str(value).lower()}"
    elif isinstance(value, int):
        where = f"{column} = {value}"
    else:
        return True  # floats and times are not compared for equality
    if not where:
        return True
    # With both columns indexed the two answers are intersected, so the id does not stand in for the other one.
    return bool(rows.count_rows(where if column == "id" else f"({where}) AND id = {quote(row_id)}"))


def _finds_words(rows: Any, column: str, caption: str, row_id: str) -> bool:
    from lance.query import MatchQuery

    words = [word for word in caption.split() if word.isascii() and word.isalnum() and 6 <= len(word) <= 40]
    words = [word for word in words if word.lower() not in STOP_WORDS]
    if not words:
        return True
    found = rows.scanner(
        columns=["id", "_score"],
        full_text_query=MatchQuery(max(words, key=len), column),
        filter=f"id = {quote(row_id)}",
    )
    return bool(found.to_table().num_rows)
