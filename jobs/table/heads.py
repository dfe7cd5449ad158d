"""Heads beside a table: do they fit its vectors, and does it have their columns? One sentence where not, before a
cluster starts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from clipmill.jobs.table.compat import stored_fingerprint
from clipmill.schemas.columns import HEAD_KEY, head_field, heads_of, is_head, set_column
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Model
from clipmill.schemas.job.heads import Head, model_words, same_model
from clipmill.schemas.model import Fingerprint


def job_heads(job: JobFile) -> tuple[Head, ...]:
    """Those that the job names, read. Raises UserError for a file that is none."""
    if not job.heads:
        return ()
    from clipmill.workers.heads import load_head

    return tuple(load_head(name, given, job.storage) for name, given in job.heads.items())


def check_table(schema: pa.Schema, heads: Sequence[Head]) -> None:
    """Do they fit the vectors in use, and are their columns free? Raises UserError."""
    fingerprint = stored_fingerprint(schema)
    for head in heads:
        check_free(schema, head)
    check_fit(heads, fingerprint)


def check_free(schema: pa.Schema, head: Head) -> None:
    if head.name in schema.names and not is_head(schema.field(head.name)):
        raise UserError(
            f"heads: '{head.name}' is a column of the table already, and no head's", "call the head otherwise"
        )


def check_fit(heads: Sequence[Head], fingerprint: Fingerprint) -> None:
    """Raises UserError for a head of another model than the fingerprint's."""
    model = model_words(fingerprint.model, fingerprint.pretrained)
    for head in heads:
        if head.weights_sha256 and head.weights_sha256 != fingerprint.weights_sha256:
            trained_on = model_words(head.model, head.pretrained) or "another model"
            raise UserError(
                f"heads: '{head.name}' ({head.file}) was trained on vectors of {trained_on}, weights "
                f"{head.weights_sha256[:8]}, not on those of {model}, weights {fingerprint.weights_sha256[:8]}",
                "train it on this table: clipmill train-head TABLE --labels FILE; or take the head out of the job",
            )
        check_dim(head, fingerprint.dim, model)
        if head.model and not head.weights_sha256:
            _check_name(head, fingerprint.model, fingerprint.pretrained)


def check_new(heads: Sequence[Head], model: Model, dim: int | None) -> None:
    """Before there is a table, or the model is loaded: by names, where a hash cannot tell, and by the width of the
    model's vectors, where that is known."""
    for head in heads:
        if head.model and not head.weights_sha256:
            _check_name(head, model.name, model.pretrained or "")
        if dim is not None:
            check_dim(head, dim, model_words(model.name, model.pretrained or ""))


def check_dim(head: Head, dim: int, model: str) -> None:
    if head.dim != dim:
        raise UserError(
            f"heads: '{head.name}' ({head.file}) is for vectors of {head.dim} numbers, those of {model} have {dim}",
            f"use a head that was trained on {model}",
        )


def _check_name(head: Head, model: str, pretrained: str) -> None:
    trained_on = model_words(head.model, head.pretrained)
    if not same_model(trained_on, model, pretrained):
        raise UserError(
            f"heads: '{head.name}' ({head.file}) was trained on vectors of {trained_on}, not of "
            f"{model_words(model, pretrained)}",
            "vectors of two models mean different things even where they are as wide: use a head of this model",
        )


def unsure(heads: Sequence[Head]) -> list[str]:
    """A sentence for each head of which nobody says what it was trained on."""
    return [
        f"heads: nothing says on which model '{head.name}' ({head.file}) was trained; only the width of its vectors "
        "was compared (`trained_on: MODEL,TAG` in the job file, --trained-on of `clipmill score`)"
        for head in heads
        if not head.says_its_model
    ]


def fields(heads: Sequence[Head], fingerprint: Fingerprint) -> pa.Schema:
    """Their columns, for a table that is made."""
    return pa.schema([head_field(head.name, head.about_json(fingerprint)) for head in heads])


def left_null(schema: pa.Schema, heads: Sequence[Head]) -> list[str]:
    """A sentence for each column of a head in use that is none of these."""
    return [
        f"the table has a column of the head '{name}', which the job does not name: new rows get no score"
        for name in sorted(set(heads_of(schema)) - {head.name for head in heads})
    ]


def told(schema: pa.Schema) -> Mapping[str, dict[str, Any]]:
    """What the columns of heads in use say of themselves."""
    return {name: json.loads(schema.field(name).metadata[HEAD_KEY]) for name in heads_of(schema)}


def without_scores(rows: Any, slug: str) -> dict[str, int]:
    """Rows of the set that have a vector and no score, by head; those that have none are left out."""
    vector = set_column("vector", slug)
    found = {
        name: int(rows.count_rows(f"{set_column(name, slug)} IS NULL AND {vector} IS NOT NULL"))
        for name in heads_of(rows.schema, slug)
    }
    return {name: count for name, count in found.items() if count}
