"""What a column was computed with, found again: the head's file, or the vocabulary and its label vectors, as the
column's metadata names them. That is somebody else's word: it is opened as a table in that place may ask for it, and
believed where the hash is right. Every function raises UserError that says why it is not found.

L: labels. D: dimension.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.table import compat
from clipmill.jobs.table.label_vectors import load_label_vectors
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import may_open, vocabulary_of
from clipmill.schemas.columns import HEAD_KEY
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Tags
from clipmill.schemas.job.heads import Head, HeadFile
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.model import Fingerprint
from clipmill.workers.engine import Engine

MakeEngine = Callable[[], Engine]


def head_again(tables: Tables, schema: pa.Schema, column: str) -> Head:
    """Of a column of scores, under the head's own name."""
    from clipmill.workers.heads import load_head

    about = json.loads(schema.field(column).metadata[HEAD_KEY])
    name = column.partition("__")[0]
    hint = "name its file once: `heads:` of the job, --head of `clipmill reembed` or `clipmill score`"
    try:
        asked = HeadFile.model_validate(about["given"])
    except (KeyError, ValueError):
        raise UserError(f"nothing says where the file of the head in {column} is", hint) from None
    if not may_open(tables, asked.file):
        raise UserError(f"the file {asked.file} of the head in {column} is not here", hint)
    try:
        head = load_head(name, asked, tables.storage)
    except OSError as error:
        raise UserError(
            f"the file {asked.file} of the head in {column} cannot be read: {error.strerror}", hint
        ) from None
    if head.hash != about.get("hash"):
        raise UserError(f"the file {asked.file} of the head in {column} has other numbers now", hint)
    return head


def tagger_again(
    tables: Tables, schema: pa.Schema, column: str, fingerprint: Fingerprint, engine: MakeEngine, *, every: int = 0
) -> Any:
    """A `Tagger` as the column's tags were made; with `every`, of so many labels a facet whatever their scores."""
    from clipmill.workers.tag import Tagger, embed_labels

    stored = compat.stored_vocabulary(schema, column) or {}
    vocabulary = vocabulary_of(tables, schema, column)
    if vocabulary is None:
        raise UserError(
            f"the vocabulary '{stored.get('name')}' of {column} is not found here, or was changed since",
            "clipmill retag TABLE --vocabulary FILE, with its file",
        )
    tags = Tags(top_k=stored["top_k"], min_score=stored["min_score"])
    if every:
        tags = Tags(top_k=min(every, len(vocabulary.labels)), min_score=0.0)
    else:
        vocabulary = compat.with_thresholds(vocabulary, schema, column)
    if "label_vectors" in stored:
        vectors_LD = _from_file(tables, stored, vocabulary, column, fingerprint.dim)
    else:
        vectors_LD = embed_labels(vocabulary, engine())
    return Tagger.from_vectors(vocabulary, vectors_LD, fingerprint, tags)


def vectors_hash(vectors_LD: npt.NDArray[np.float32]) -> str:
    """Of label vectors that came from a file."""
    return hashlib.sha256(vectors_LD.tobytes()).hexdigest()[:16]


def _from_file(
    tables: Tables, stored: dict[str, Any], vocabulary: Vocabulary, column: str, dim: int
) -> npt.NDArray[np.float32]:
    """`retag --label-vectors FILE`: a file on this disk, so only for a table on this disk."""
    file = stored.get("label_vectors_file")
    hint = "clipmill retag TABLE --vocabulary FILE --label-vectors FILE, with its files"
    if not isinstance(file, str) or not may_open(tables, file):
        raise UserError(f"the label vectors of {column} came from a file that is not here", hint)
    vectors_LD = load_label_vectors(file, vocabulary, dim)
    if vectors_hash(vectors_LD) != stored["label_vectors"]:
        raise UserError(f"the label vectors of {column} are others in {file} now", hint)
    return vectors_LD
