"""`clipmill retag TABLE --vocabulary FILE`: tags of another vocabulary from the stored vectors. No images, no GPU.

A reader of any version sees the tags of one vocabulary, with that vocabulary's hash beside them; how, and what a kill
leaves, is `committing.derived`.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipmill.jobs.committing.derived import Derivation, Derived
from clipmill.jobs.committing.lease import no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.migrating.calibrate import Calibration, calibrate
from clipmill.jobs.table import compat, memory, sets
from clipmill.jobs.table.again import vectors_hash
from clipmill.jobs.table.label_vectors import load_label_vectors
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import COMPUTED, REPLACED, VOCABULARY_KEY, set_column, sets_in
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage, Tags
from clipmill.schemas.text.words import counted
from clipmill.workers.store.uri import split_uri
from clipmill.workers.tag import BUILT_IN, Tagger, embed_labels, load_vocabulary

Say = Callable[[str], None]
Step = Callable[[str], None]
NAMES = ("tags", "tag_scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retagged:
    """`rows` of the table = `with_tags` + `without_tags`: no label fits those well enough, or they have no vector.
    `written`: rows that this call compared with the labels; the others had their tags already. `note`: where readers
    see another version still."""

    table: str
    vocabulary: str
    labels: int
    rows: int
    with_tags: int
    without_tags: int
    written: int
    version: int
    seconds: float
    column: str = "tags"
    calibration: Calibration | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetagOptions:
    """`top_k` and `min_score`: as the table's tags have them where None. `label_vectors`: a .npy file instead of the
    text tower. `beside`: the slug of a vocabulary beside the one in use, whose tags are `tags__slug`. `calibrate`: a
    CSV file of labels, by which each label gets a threshold of its own; without it those of this vocabulary stay, but
    for a `min_score` that is given."""

    vocabulary: str
    label_vectors: str | None = None
    top_k: int | None = None
    min_score: float | None = None
    beside: str = ""
    calibrate: str | None = None

    @property
    def names(self) -> tuple[str, str]:
        first, second = (set_column(name, self.beside) if self.beside else name for name in NAMES)
        return first, second


def retag(
    table: str, options: RetagOptions, storage: Storage, *, say: Say = lambda _: None, step: Step = lambda _: None
) -> Retagged:
    """Give every row the tags of `options.vocabulary`. `step` is told before each commit (tests stop there).

    Raises UserError where the vocabulary or its vectors do not fit, LeaseHeld where somebody else writes, LeaseLost.
    """
    began = time.monotonic()
    tables = Tables.at(table, storage)
    schema = tables.open().schema
    if options.beside:
        check_beside(schema, options.beside)
    memory.use_little()
    tagger = _tagger(schema, options, storage, say)
    found = calibrate(tables, tagger, options.calibrate, say) if options.calibrate else None
    if found is not None:
        tagger = tagger.with_thresholds(found.thresholds)
    about = _about(tagger, options, compat.stored_fingerprint(schema).weights_sha256)
    derived = derived_tags(tagger, about, options.names)
    with leased(tables, "retag", say) as (lease, _), no_fill_beside(lease, say):
        written = Derivation(tables, lease, derived, say, step).all()
    rows = tables.open()
    count, without = rows.count_rows(), rows.count_rows(f"array_length({options.names[0]}) = 0")
    seen = readers(rows)
    return Retagged(
        table=table,
        vocabulary=tagger.vocabulary.name,
        labels=len(tagger.vocabulary.labels),
        rows=count,
        with_tags=count - without,
        without_tags=without,
        written=written,
        version=int(rows.version),
        seconds=round(time.monotonic() - began, 3),
        column=options.names[0],
        calibration=found,
        note=seen.behind(table),
    )


def check_beside(schema: pa.Schema, slug: str) -> None:
    """Raises UserError for what cannot be the name of a vocabulary beside the one in use."""
    sets.check_slug(slug)
    if slug in sets_in(schema) or slug == sets.slug_in_use(schema) or f"__{slug}" in (COMPUTED, REPLACED):
        raise UserError(
            f"'{slug}' is the name of a set of another model, or of clipmill's own columns", "choose another: --as NAME"
        )


def _tagger(schema: pa.Schema, options: RetagOptions, storage: Storage, say: Say) -> Tagger:
    fingerprint = compat.stored_fingerprint(schema)
    vocabulary = load_vocabulary(options.vocabulary, storage)
    column = options.names[0] if options.names[0] in schema.names else NAMES[0]
    stored = compat.stored_vocabulary(schema, column) or {}
    if options.min_score is None and column == options.names[0]:
        vocabulary = compat.with_thresholds(vocabulary, schema, column)
    usual = Tags()
    top_k = options.top_k or stored.get("top_k", usual.top_k)
    min_score = options.min_score if options.min_score is not None else stored.get("min_score", usual.min_score)
    tags = Tags(vocabulary=options.vocabulary, top_k=top_k, min_score=min_score)
    if options.label_vectors is not None:
        vectors_LD = load_label_vectors(options.label_vectors, vocabulary, fingerprint.dim)
    else:
        from clipmill.jobs.querying.encoder import engine_for  # loads torch and the model

        say(f"embedding {counted(len(vocabulary.labels), 'label')} with {fingerprint.model}")
        vectors_LD = embed_labels(vocabulary, engine_for(fingerprint))
    return Tagger.from_vectors(vocabulary, vectors_LD, fingerprint, tags)


def _about(tagger: Tagger, options: RetagOptions, weights_sha256: str) -> dict[str, Any]:
    """What the column's metadata says: as embed writes it, and where the vocabulary's file is, so that it is found
    without a job that names it; of vectors from a file, their hash and the file; beside the tags in use, the model,
    which a promotion changes under them."""
    about: dict[str, Any] = json.loads(tagger.metadata_json)
    if options.vocabulary not in BUILT_IN:
        scheme, path = split_uri(options.vocabulary)
        about["file"] = os.path.abspath(path) if scheme == "file" else options.vocabulary
    if options.label_vectors is not None:
        about["label_vectors"] = vectors_hash(tagger.vectors_LD)
        about["label_vectors_file"] = os.path.abspath(options.label_vectors)
    if options.beside:
        about["weights_sha256"] = weights_sha256
    return about


def derived_tags(tagger: Tagger, about: dict[str, Any], names: tuple[str, str]) -> Derived:
    """Rows without a vector have no tags, and no null either."""
    metadata = {VOCABULARY_KEY: json.dumps(about, sort_keys=True).encode()}
    tags = pa.field(names[0], pa.list_(pa.string()), metadata=metadata)
    return Derived(
        fields=pa.schema([tags, pa.field(names[1], pa.list_(pa.float32()))]),
        key=VOCABULARY_KEY,
        told=("hash", "top_k", "min_score", "label_vectors", "thresholds", "weights_sha256"),
        compute=tagger.tag,
        index="LABEL_LIST",
        verb="compared with the labels",
    )
