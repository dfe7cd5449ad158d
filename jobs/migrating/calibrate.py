"""`retag --calibrate FILE`: for each label the least score that tells best, by F1, on pictures that people labelled.

N: labelled pictures. L: labels. D: dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from clipmill.jobs.exploring.logistic import best_threshold
from clipmill.jobs.exploring.pairs import read_pairs, vectors_of
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted
from clipmill.workers.tag import Tagger

MAX_ROWS = 50_000
MIN_TRUE = 5  # of a label; with fewer its threshold would be chance
_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`thresholds` by label; `f1_before` and `f1` are means over these labels, on the very pictures they were chosen
    by, before `top_k` is applied. `absent`: entries of the file without a row or a vector in the table. `too_few`:
    labels of the file with fewer than five pictures, which keep the common threshold."""

    thresholds: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    absent: int = 0
    f1_before: float = 0.0
    f1: float = 0.0
    too_few: int = 0


def calibrate(tables: Tables, tagger: Tagger, file: str, say: Callable[[str], None]) -> Calibration:
    """`file`: a CSV of id (or uri) and label; a picture that several lines name has several labels, and none but these.
    Raises UserError where it names no label of the vocabulary, or too few pictures."""
    table = open_table(f"{tables.database}/{tables.name}", version=int(tables.open().version), storage=tables.storage)
    pairs = read_pairs(table, file, "label", MAX_ROWS)
    places, vectors_ND = vectors_of(table, [row_id for row_id, _ in pairs], "vector")
    number = {label.name: at for at, label in enumerate(tagger.vocabulary.labels)}
    if unknown := sorted({label for _, label in pairs if label not in number}):
        raise UserError(
            f"{file}: '{unknown[0][:60]}' is no label of the vocabulary '{tagger.vocabulary.name}'"
            + (f", nor are {len(unknown) - 1} others" if len(unknown) > 1 else ""),
            "write each label as the vocabulary names it",
        )
    truth: dict[int, set[int]] = {}
    for row_id, label in pairs:
        if row_id in places:
            truth.setdefault(number[label], set()).add(places[row_id])
    chosen = sorted(at for at, rows in truth.items() if len(rows) >= MIN_TRUE)
    if not chosen:
        raise UserError(
            f"{file} names no label for {MIN_TRUE} pictures that are in the table",
            "its columns are id (or uri) and label, a line for each label of a picture",
        )
    scores_NK = np.concatenate(
        [tagger.scores(vectors_ND[at : at + _BLOCK])[:, chosen] for at in range(0, len(vectors_ND), _BLOCK)]
    )
    least = tagger.tags.min_score
    thresholds, before, after = {}, [], []
    for column, at in enumerate(chosen):
        truth_N = np.zeros(len(vectors_ND), np.bool_)
        truth_N[list(truth[at])] = True
        scores_N = scores_NK[:, column].astype(np.float64)
        threshold, f1 = best_threshold(scores_N, truth_N)
        # In full: a score may be a millionth, and others agree with it in as many digits.
        thresholds[tagger.vocabulary.labels[at].name] = threshold
        said_N = scores_N >= least
        before.append(2 * int((said_N & truth_N).sum()) / (int(said_N.sum()) + int(truth_N.sum())))
        after.append(f1)
    found = Calibration(
        thresholds=thresholds,
        rows=len(vectors_ND),
        absent=sum(row_id not in places for row_id, _ in pairs),
        f1_before=round(float(np.mean(before)), 4),
        f1=round(float(np.mean(after)), 4),
        too_few=len(truth) - len(chosen),
    )
    labels, pictures = counted(len(thresholds), "label"), counted(found.rows, "picture")
    say(f"{labels} calibrated on {pictures}: F1 {found.f1_before} → {found.f1}")
    return found
