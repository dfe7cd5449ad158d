"""Columns of heads, brought up to date from stored vectors: where a head is new or changed, or rows have no score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.jobs.committing.derived import Derivation, Derived, Say, Step
from clipmill.jobs.committing.lease import Lease, no_fill_beside
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import FINGERPRINT_KEY, HEAD_KEY, head_field
from clipmill.schemas.job.heads import Head
from clipmill.schemas.model import Fingerprint
from clipmill.workers.heads import head_values


def derived(head: Head, schema: pa.Schema, vector: str = "vector", *, name: str = "") -> Derived:
    """`name`: of the column, where that is not the head's."""
    fingerprint = Fingerprint.from_json(schema.field(vector).metadata[FINGERPRINT_KEY].decode())
    return Derived(
        fields=pa.schema([head_field(name or head.name, head.about_json(fingerprint, vector))]),
        key=HEAD_KEY,
        told=("hash", "vector", "weights_sha256"),
        compute=lambda vectors_ND: (head_values(head, vectors_ND),),
        index="BTREE",
        verb="scored",
        vector=vector,
        nulls=True,
    )


def behind(rows: Any, heads: Sequence[Head]) -> list[Head]:
    """Those whose column is missing, is of another head or model, or lacks scores."""
    found = []
    for head in heads:
        one = derived(head, rows.schema)
        if not one.is_current(rows.schema) or rows.count_rows(one.missing()):
            found.append(head)
    return found


def refresh(
    tables: Tables, lease: Lease, heads: Sequence[Head], say: Say, step: Step = lambda _: None
) -> dict[str, int]:
    """Rows scored now, by head. Under the table's lease; LeaseHeld where a column is being filled."""
    late = behind(tables.open(), heads)
    if not late:
        return {}
    with no_fill_beside(lease, say):
        return {
            head.name: Derivation(tables, lease, derived(head, tables.open().schema), say, step).all() for head in late
        }


def least_and_greatest(rows: Any, column: str) -> tuple[float | None, float | None, float | None]:
    """Least, mean and greatest score of a column; None where there is none."""
    count, total, least, greatest = 0, 0.0, np.inf, -np.inf
    for batch in rows.scanner(columns=[column], filter=f"{column} IS NOT NULL").to_batches():
        values_N = batch.column(0).to_numpy()
        if len(values_N):
            count, total = count + len(values_N), total + float(values_N.sum(dtype=np.float64))
            least, greatest = min(least, float(values_N.min())), max(greatest, float(values_N.max()))
    return (least, total / count, greatest) if count else (None, None, None)
