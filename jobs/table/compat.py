"""May this job write into that table? One sentence where it may not, before anything is computed if possible."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from clipmill.jobs.table.proof import is_unproven
from clipmill.schemas.columns import (
    ALWAYS_FILLED,
    FINGERPRINT_KEY,
    KEEP_TYPES,
    ORIENTATION,
    RESERVED,
    VOCABULARY_KEY,
    has_orientation,
    has_phash,
    is_head,
    is_orientation,
    of_set,
)
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Source
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.model import Fingerprint

_MADE_WITH_THE_ROWS = (
    "they are made while pictures are embedded: leave the line out, or give the job another table name and embed again"
)


def stored_fingerprint(schema: pa.Schema) -> Fingerprint:
    """The fingerprint in the metadata of `vector`. Raises UserError where the table is not clipmill's."""
    index = schema.get_field_index("vector")
    metadata = schema.field(index).metadata if index >= 0 else None
    if not metadata or FINGERPRINT_KEY not in metadata:
        raise UserError(
            "the table exists, but clipmill did not make it: its column `vector` carries no fingerprint",
            "give the job another table name",
        )
    return Fingerprint.from_json(metadata[FINGERPRINT_KEY].decode())


def stored_vocabulary(schema: pa.Schema, column: str = "tags") -> dict[str, Any] | None:
    """Name, hash and options of the vocabulary the tags were made with; None for a table without tags."""
    metadata = schema.field(column).metadata if column in schema.names else None
    text = (metadata or {}).get(VOCABULARY_KEY)
    return json.loads(text) if text else None


def tags_of_model(schema: pa.Schema, column: str, fingerprint: Fingerprint) -> bool:
    """Whether tags of a vocabulary beside are of this model's vectors; a promotion leaves them on the model before."""
    stored = stored_vocabulary(schema, column) or {}
    return bool(stored.get("weights_sha256") == fingerprint.weights_sha256)


def with_thresholds(vocabulary: Vocabulary, schema: pa.Schema, column: str = "tags") -> Vocabulary:
    """The vocabulary with what was calibrated for it on the table's vectors."""
    stored = stored_vocabulary(schema, column)
    if stored is None or stored["hash"] != vocabulary.hash:
        return vocabulary
    return replace(vocabulary, thresholds=stored_thresholds(stored))


def stored_thresholds(stored: Mapping[str, Any]) -> dict[str, float]:
    """By label; what somebody else may have put there is passed over."""
    found = stored.get("thresholds")
    items = found.items() if isinstance(found, dict) else ()
    return {label: float(value) for label, value in items if isinstance(value, int | float) and 0 <= value <= 1}


def job_vocabulary(job: JobFile) -> Vocabulary | None:
    """The vocabulary that the job names, read. Raises UserError."""
    if job.tags.vocabulary is None:
        return None
    from clipmill.workers.tag import load_vocabulary

    return load_vocabulary(job.tags.vocabulary, job.storage)


def check_table(schema: pa.Schema, job: JobFile, vocabulary: Vocabulary | None, mine: Fingerprint | None) -> None:
    """Everything that must fit before a row is added. `mine`: of the loaded model, None where none is loaded yet.

    To be called under the lease: before it, another run may make the table, with other settings.
    """
    check_columns(schema, job)
    check_proven(schema)
    check_vocabulary(schema, vocabulary)
    if mine is not None:
        check_fingerprint(schema, mine)


def check_proven(schema: pa.Schema) -> None:
    """Vectors of which nobody knows the model may not be mixed with vectors of one."""
    theirs = stored_fingerprint(schema)
    if is_unproven(theirs):
        raise UserError(
            f"the table's vectors were imported and never shown to be of {theirs.model}: no others are put beside them",
            "prove them: `clipmill import` the same files again with --pictures FOLDER; or use a new table",
        )


def has_model_of(schema: pa.Schema, job: JobFile) -> bool:
    """Whether the job names the table's model as the table does. If not, only loading it tells: a checkpoint may lie
    elsewhere, or a tag and a hub name stand for the same weights."""
    fingerprint = stored_fingerprint(schema)
    return (fingerprint.model, fingerprint.pretrained) == (job.model.name, job.model.pretrained or "")


def check_columns(schema: pa.Schema, job: JobFile) -> None:
    """Kept columns, thumbnails and perceptual hashes: what the job file alone can tell."""
    stored_fingerprint(schema)
    ours = {field.name for field in schema if _is_ours(field)}
    kept = {field.name: field.type for field in schema if field.name not in ours}
    wanted = {name: KEEP_TYPES[kind] for name, kind in job.source.keep_types.items()}
    missing = sorted(set(wanted) - set(kept))
    if missing:
        raise UserError(
            f"source.keep names {', '.join(missing)}, which the table has no column for",
            "kept columns are fixed when the table is made: leave it out, or use a new table",
        )
    for name, kind in wanted.items():
        if kept[name] != kind:
            raise UserError(
                f"source.keep.{name} is {kind}, but the table's column is {kept[name]}",
                f"write `{name}: {kept[name]}`, or use a new table",
            )
    strict = [field.name for field in schema if not field.nullable and field.name not in ALWAYS_FILLED]
    if strict:
        raise UserError(
            f"column {', '.join(strict)} of the table allows no null, and a job has not a value of it for every row",
            f"make it nullable: lance.dataset(...).alter_columns({{'path': '{strict[0]}', 'nullable': True}})",
        )
    if job.source.orientation is not None and ORIENTATION in schema.names and not has_orientation(schema):
        raise UserError(
            f"source.orientation is set, and the table keeps a column {ORIENTATION} of its own",
            "use a new table, and give the kept column another name",
        )
    if job.thumbnails and "thumbnail" not in schema.names:
        raise UserError("thumbnails: true, but the table was made without thumbnails", _MADE_WITH_THE_ROWS)
    if job.phash and not has_phash(schema):
        raise UserError("phash: true, but the table was made without perceptual hashes", _MADE_WITH_THE_ROWS)


def left_null(schema: pa.Schema, job: JobFile, before: Source | None) -> list[str]:
    """A sentence for each thing that the table's rows have and this job's new rows may not. Several jobs may fill one
    table, of whose sources not all say the same, so it is told and not refused. `before`: the source of the last job,
    because every table has a column for captions."""
    said = []
    if before is not None and before.caption is not None and job.source.caption is None:
        said.append(f"the last job read captions ({before.caption}), and this one has no source.caption")
    if has_orientation(schema) and job.source.orientation is None:
        said.append(
            f"the table has a column {ORIENTATION}, and the job has no source.orientation: new rows have null there, "
            "and their pictures are taken as their bytes lie"
        )
    kept = sorted(field.name for field in schema if not _is_ours(field) and field.name not in job.source.keep)
    if kept:
        said.append(f"source.keep does not name {', '.join(kept)}, which the table has: new rows have null there")
    if "thumbnail" in schema.names and not job.thumbnails:
        said.append("the table has thumbnails, and the job has no `thumbnails: true`: new rows have none")
    return said


def _is_ours(field: pa.Field) -> bool:
    return field.name in RESERVED or of_set(field.name) or is_head(field) or is_orientation(field)


def check_fingerprint(schema: pa.Schema, mine: Fingerprint) -> None:
    """Vectors of two models never share a column."""
    theirs = stored_fingerprint(schema)
    differences = mine.differences(theirs)
    if differences:
        raise UserError(
            f"the table holds vectors of {theirs.model} ({theirs.pretrained}), not of {mine.model} "
            f"({mine.pretrained}): {differences[0]}",
            "use the table's model, or give the job another table name; `clipmill reembed TABLE --model NAME` fills "
            "another model's vectors beside them, and `clipmill promote` puts those in use",
        )


def check_vocabulary(schema: pa.Schema, mine: Vocabulary | None, column: str = "tags") -> None:
    """Tags of two vocabularies never share a column."""
    theirs = stored_vocabulary(schema, column)
    if (theirs["hash"] if theirs else None) != (mine.hash if mine else None):
        was = f"vocabulary '{theirs['name']}'" if theirs else "no vocabulary"
        now = f"vocabulary '{mine.name}'" if mine else "none"
        same = "put the table's vocabulary into" if theirs else "leave `tags.vocabulary` out of"
        changed = " with other labels or templates" if theirs and mine and theirs["name"] == mine.name else ""
        raise UserError(
            f"the table's tags were made with {was}, the job names {now}{changed}",
            f"{same} the job file, or give the job another table name"
            + ("; `clipmill retag TABLE --vocabulary FILE` gives the rows that are there the new tags" if mine else ""),
        )
