"""What follows from stored vectors, computed again from them: scores of heads, and tags of sets beside the one in use.
And which rows lack a value that they may still get: that is no damage.

N: rows of a batch. D: dimension.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.table import sets
from clipmill.jobs.table.again import head_again
from clipmill.jobs.table.compat import stored_vocabulary
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import columns_of
from clipmill.jobs.verifying import tags
from clipmill.jobs.verifying.report import Problems, Report
from clipmill.schemas.columns import FINGERPRINT_KEY, HEAD_KEY, is_head, set_column, sets_in, waiting
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.heads import Head
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.words import counted

SCORE_TOLERANCE = 1e-3  # of a score, and of 1 where it is smaller: float32 through some layers, in another order
_ROWS = 4096


def check_derived(tables: Tables, rows: Any, report: Report, say: Problems) -> None:
    """Every row of every column of scores, where the head is found; and of a set's tags, where its model loads."""
    for column, vector in scored(rows.schema).items():
        if vector is None:
            report.not_checked.append(f"{column}: the table has no vectors of the model that it scored")
            continue
        try:
            head = head_again(tables, rows.schema, column)
        except UserError as error:
            report.not_checked.append(f"{column}: {error.message}")
            continue
        _check_scores(rows, column, vector, head, say)
    for slug in sets_in(rows.schema):
        column = set_column("tags", slug)
        if tags.rules(tables, rows, column).tagged:
            _check_tags(tables, rows, slug, report, say)


def scored(schema: pa.Schema) -> dict[str, str | None]:
    """Columns of scores -> the vectors they are of: by the weights, since a promotion moves names."""
    found: dict[str, str | None] = {}
    under_way = waiting(schema)
    for field in schema:
        if is_head(field) and (field.name not in under_way or field.name.partition("__")[2] in sets_in(schema)):
            about = json.loads(field.metadata[HEAD_KEY])
            base = str(about.get("vector", "vector")).partition("__")[0]
            names = [base, *(set_column(base, slug) for slug in sets_in(schema))]
            fits = (name for name in names if _weights(schema, name) == about.get("weights_sha256"))
            found[field.name] = next(fits, None)
    return found


def _weights(schema: pa.Schema, vector: str) -> str | None:
    metadata = (schema.field(vector).metadata or {}) if vector in schema.names else {}
    text = metadata.get(FINGERPRINT_KEY)
    return Fingerprint.from_json(text.decode()).weights_sha256 if text else None


def missing(rows: Any) -> list[str]:
    """A sentence for each column of scores, or of tags beside those in use, that rows with a vector lack. The
    set of a table without a vocabulary has a column of tags with nothing to come."""
    labelled = {c: v for c, v in columns_of(rows.schema).items() if c != "tags" and stored_vocabulary(rows.schema, c)}
    columns = {**scored(rows.schema), **labelled}
    found = []
    for column, vector in columns.items():
        count = int(rows.count_rows(f"{column} IS NULL AND {vector} IS NOT NULL")) if vector else 0
        if count:
            found.append(f"{counted(count, 'row has', 'rows have')} a vector and nothing in {column} yet")
    return found


def _check_scores(rows: Any, column: str, vector: str, head: Head, say: Problems) -> None:
    from clipmill.workers.heads import scores

    scanner = rows.scanner(columns=["id", column, vector], filter=f"{column} IS NOT NULL", batch_size=_ROWS)
    for batch in scanner.to_batches():
        without_N = np.asarray(batch[vector].is_null())
        for at in np.flatnonzero(without_N).tolist():
            say(column, f"row {batch['id'][at]}: {column} is a score without a vector")
        there = batch.filter(pa.array(~without_N))
        if not there.num_rows:
            continue
        dim = there[vector].type.list_size
        again_N = scores(head, np.asarray(there[vector].flatten(), np.float32).reshape(-1, dim))
        stored_N: npt.NDArray[np.float32] = np.asarray(there[column])
        near_N = np.abs(stored_N - again_N) <= SCORE_TOLERANCE * np.maximum(1, np.abs(again_N))
        for at in np.flatnonzero(~near_N).tolist():  # NaN too
            found = f"{stored_N[at]:.4f}, the head gives {again_N[at]:.4f} for its vector"
            say(column, f"row {there['id'][at]}: {column} is {found}")


def _check_tags(tables: Tables, rows: Any, slug: str, report: Report, say: Problems) -> None:
    from clipmill.workers.load import load_engine

    column, fingerprint = set_column("tags", slug), sets.fingerprint_of(rows.schema, slug)
    try:
        engine = load_engine(fingerprint.spec("fp32"))
    except UserError as error:
        report.not_checked.append(f"{column} against the model: {error.message}")
        return
    if differences := engine.fingerprint.differences(fingerprint):
        report.not_checked.append(f"{column} against the model: another one loads here: {differences[0]}")
        return
    tags.check_against_model(tables, rows, engine, report, say, column)
