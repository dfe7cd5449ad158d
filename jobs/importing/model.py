"""The stated model, loaded, and what tags the vectors: the table's vocabulary, or the one that a new table gets."""

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from clipmill.jobs.importing.request import ImportOptions, Say
from clipmill.jobs.table import compat
from clipmill.jobs.table.again import tagger_again
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Tags
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.workers.engine import Engine
from clipmill.workers.load import load_engine
from clipmill.workers.naming import names as model_names
from clipmill.workers.store.uri import split_uri
from clipmill.workers.tag import BUILT_IN, Tagger, load_vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    engine: Engine
    tagger: Tagger | None
    vocabulary_json: str | None


def load_model(tables: Tables, rows: Any, options: ImportOptions, say: Say) -> Loaded:
    """`rows`: the table that is there, or None. In fp32, as proofs and checks are computed. Raises UserError where the
    model cannot be loaded, or neither it nor the vocabulary is the table's."""
    model_names.check(options.model.spec(), here=True)
    wanted = load_vocabulary(options.vocabulary, tables.storage) if options.vocabulary else None
    say(f"loading {options.model.name}")
    engine = load_engine(replace(options.model.spec(), precision="fp32"))
    if rows is not None:
        compat.check_fingerprint(rows.schema, engine.fingerprint)
    tagger = _tagger(tables, rows, wanted, engine)
    return Loaded(engine=engine, tagger=tagger, vocabulary_json=_about(tagger, options))


def _tagger(tables: Tables, rows: Any, wanted: Vocabulary | None, engine: Engine) -> Tagger | None:
    stored = compat.stored_vocabulary(rows.schema) if rows is not None else None
    if stored is None:
        return Tagger.build(wanted, engine, Tags()) if wanted else None
    if wanted is not None and "label_vectors" not in stored:
        tags = Tags(top_k=stored["top_k"], min_score=stored["min_score"])
        return Tagger.build(compat.with_thresholds(wanted, rows.schema), engine, tags)
    found: Tagger = tagger_again(tables, rows.schema, "tags", engine.fingerprint, lambda: engine)
    return found


def _about(tagger: Tagger | None, options: ImportOptions) -> str | None:
    """As the column of tags carries it, with the vocabulary's file, so that it is found again."""
    if tagger is None:
        return None
    about = json.loads(tagger.metadata_json)
    if options.vocabulary and options.vocabulary not in BUILT_IN:
        scheme, path = split_uri(options.vocabulary)
        about["file"] = os.path.abspath(path) if scheme == "file" else options.vocabulary
    return json.dumps(about, sort_keys=True)
