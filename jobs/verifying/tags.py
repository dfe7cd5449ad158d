"""Tags and their scores: ranges and order, the labels of the vocabulary, and, where the model is loaded, what the
stored vectors would be tagged with.

The label vectors are not stored, and making them takes the text tower, so without a model a tag can be of the wrong
label and not be found; `verify --sample` loads it and then looks at the tags of every row.

B: rows of a batch. L: labels. D: dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.jobs.table import compat
from clipmill.jobs.table.again import tagger_again
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import columns_of, vocabulary_of
from clipmill.jobs.verifying.report import Problems, Report
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.workers.engine import Engine

# Of a cosine between a stored vector and a label's, when either was computed in bf16 and the other in fp32.
COSINE_TOLERANCE = 4e-3
SCORE_TOLERANCE = 1e-4
_ROWS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the tags of a row must be like. `vocabulary`: None where its file is not found or is another one now."""

    tagged: bool
    min_score: float = 0.0
    top_k: int = 0
    vocabulary: Vocabulary | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def least(self, label: str) -> float:
        return self.thresholds.get(label, self.min_score)

    @property
    def facet_of(self) -> dict[str, str]:
        return {label.name: label.facet for label in self.vocabulary.labels} if self.vocabulary else {}


def scores_of(column: str) -> str:
    """The column of scores that is parallel to one of tags."""
    return "tag_scores" + column.removeprefix("tags")


def rules(tables: Tables, rows: Any, column: str = "tags") -> Rules:
    """From what the column's metadata says, and the vocabulary where it is found (`table.vocabularies`)."""
    stored = compat.stored_vocabulary(rows.schema, column)
    if stored is None:
        return Rules(tagged=False)
    found = vocabulary_of(tables, rows.schema, column)
    return Rules(
        tagged=True,
        min_score=stored["min_score"],
        top_k=stored["top_k"],
        vocabulary=found,
        thresholds=compat.stored_thresholds(stored),
    )


class TagCheck:
    """Of every row, without a model. Beside the tags in use a row may have none yet."""

    def __init__(self, rules: Rules, column: str = "tags") -> None:
        self.rules, self.column, self.scores = rules, column, scores_of(column)
        self._facet_of = rules.facet_of
        self._where = "" if column == "tags" else f", {column}"

    def __call__(self, batch: pa.RecordBatch, say: Problems) -> None:
        names = zip(*(batch[name].to_pylist() for name in ("id", self.column, self.scores)), strict=True)
        for row_id, tags, scores in names:
            if self._where and tags is None and scores is None:
                continue
            if wrong := self._wrong(tags, scores):
                say(self.column, f"row {row_id}{self._where}: {wrong}")

    def _wrong(self, tags: list[str | None] | None, scores: list[float | None] | None) -> str:
        """What is wrong with the tags of a row, empty where nothing is."""
        if not self.rules.tagged:
            return "it has tags, the table has no vocabulary" if tags or scores else ""
        if tags is None or scores is None:
            return "tags or tag_scores is null, the table has a vocabulary"
        if len(tags) != len(scores):
            return "tags and tag_scores differ in length"
        if not tags:
            return ""
        least = [self.rules.least(str(tag)) for tag in tags]
        for score, low in zip(scores, least, strict=True):
            if score is None or not max(low - SCORE_TOLERANCE, 0.0) <= score <= 1 + SCORE_TOLERANCE:
                shown = "null" if score is None else f"{score:.4g}"
                return f"the tag score {shown} is not between {low:g} and 1"
        if any(a < b for a, b in pairwise(scores)):  # type: ignore[operator]
            return "tags are not ordered by score"
        if len(set(tags)) < len(tags):
            return "a tag is there twice"
        return self._beside_vocabulary(tags)

    def _beside_vocabulary(self, tags: list[str | None]) -> str:
        if self.rules.vocabulary is None:
            return ""
        if unknown := [tag for tag in tags if tag not in self._facet_of]:
            return f"the tag '{unknown[0]}' is no label of the vocabulary '{self.rules.vocabulary.name}'"
        facets = [self._facet_of[str(tag)] for tag in tags]
        most = max(facets.count(facet) for facet in set(facets))
        return f"{most} tags of one facet, at most {self.rules.top_k} are given" if most > self.rules.top_k else ""


def checks(tables: Tables, rows: Any) -> list[TagCheck]:
    """One for each column of tags."""
    return [TagCheck(rules(tables, rows, column), column) for column in columns_of(rows.schema)]


def texts_to_embed(tables: Tables, rows: Any) -> int:
    """How many `check_in_use` embeds for the labels whose vectors are not stored; of a vocabulary that is found."""
    texts = 0
    for column, vector in columns_of(rows.schema).items():
        stored = compat.stored_vocabulary(rows.schema, column)
        if vector == "vector" and stored is not None and "label_vectors" not in stored:
            found = vocabulary_of(tables, rows.schema, column)
            texts += sum(len(found.prompts(label)) for label in found.labels) if found is not None else 0
    return texts


def check_in_use(tables: Tables, rows: Any, engine: Engine, report: Report, say: Problems) -> None:
    """The tags of the vectors in use, by every vocabulary. Those beside say whose vectors they were made from."""
    for column, vector in columns_of(rows.schema).items():
        if vector != "vector":
            continue
        stored = compat.stored_vocabulary(rows.schema, column) or {}
        if column != "tags" and stored.get("weights_sha256") != engine.fingerprint.weights_sha256:
            report.not_checked.append(f"{column}: nothing says that they are of the vectors in use")
            continue
        check_against_model(tables, rows, engine, report, say, column)


def check_against_model(
    tables: Tables, rows: Any, engine: Engine, report: Report, say: Problems, column: str = "tags"
) -> None:
    """Tag every row again from its stored vector. Scores may differ as far as precision explains: the log-odds of a
    softmax or sigmoid change by at most twice the change of a logit."""
    found = rules(tables, rows, column)
    if not found.tagged:
        return
    try:
        tagger = tagger_again(tables, rows.schema, column, engine.fingerprint, lambda: engine, every=100)
    except UserError as error:
        report.not_checked.append(f"{column} against the model: {error.message}")
        return
    tolerance = 2 * COSINE_TOLERANCE * engine.fingerprint.logit_scale
    vector, where = columns_of(rows.schema)[column], "" if column == "tags" else f", {column}"
    columns = ["id", vector, column, scores_of(column)]
    scanner = rows.scanner(columns=columns, filter=f"{vector} IS NOT NULL AND {column} IS NOT NULL", batch_size=_ROWS)
    for batch in scanner.to_batches():
        dim = batch[vector].type.list_size
        vectors_BD = np.asarray(batch[vector].flatten()).reshape(-1, dim)
        again_tags, again_scores = tagger.tag(vectors_BD)
        stored = (batch[name].to_pylist() for name in ("id", column, scores_of(column)))
        both = zip(*stored, again_tags.to_pylist(), again_scores.to_pylist(), strict=True)
        for row_id, tags, scores, now_tags, now_scores in both:
            again = dict(zip(now_tags, now_scores, strict=True))
            if wrong := _differs(tags, scores, again, found, tolerance):
                say(column, f"row {row_id}{where}: {wrong}")


def _differs(
    tags: list[str], scores: list[float | None] | None, again: dict[str, float], rules: Rules, tolerance: float
) -> str:
    """`again`: score by label from the row's own vector, the best hundred of each facet."""
    for tag, score in zip(tags, scores or [], strict=False):
        now = again.get(tag, 0.0)
        if score is not None and abs(_log_odds(score) - _log_odds(now)) > tolerance + 0.05:
            return f"its vector is '{tag}' with score {now:.2f}, {score:.2f} is stored"
    stored = set(tags)
    best = max(again.items(), key=lambda item: item[1], default=("", 0.0))
    certain = float(1 / (1 + np.exp(tolerance - _log_odds(best[1]))))  # what remains of it in the worst case
    if best[0] not in stored and certain > max(rules.least(best[0]), 0.5):
        return f"its vector is '{best[0]}' with score {best[1]:.2f}, which is not among its tags"
    return ""


def _log_odds(score: float) -> float:
    """Within what float32 tells from 0 and 1 in a softmax over many labels."""
    p = float(np.clip(score, 1e-3, 1 - 1e-3))
    return float(np.log(p / (1 - p)))
