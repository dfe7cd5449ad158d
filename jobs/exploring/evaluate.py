"""`clipmill evaluate TABLE`: zero-shot accuracy against labels, retrieval recall against captions; numbers and a plot.

Images are never read: the table's vectors are what is judged.
N: images. M: texts. D: dimension.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.exploring.evaluate_metrics import Floats, Retrieval, ZeroShot, retrieval, zero_shot
from clipmill.jobs.exploring.pairs import Pairs, read_pairs, sampled, vectors_of
from clipmill.jobs.querying.encoder import encode_texts
from clipmill.jobs.querying.open import Table
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.vocabulary import PLACEHOLDER, Label, Vocabulary

MAX_ROWS = 50_000
MAX_LABELS = 5_000
TEMPLATES = (f"a photo of a {PLACEHOLDER}.", f"a picture of a {PLACEHOLDER}.", f"a {PLACEHOLDER}.")
_PLOTTED_LABELS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """`labels`, `captions`: CSV files with a column id or uri, and label or caption. Without either, the table's own
    captions are used; a picture may be named several times. `label_column`: a column of the table that holds a label
    or a list of them. `templates`: prompts with {label}. `max_rows`: of more pictures as many are sampled, the same
    ones each time. `column`: the vectors judged."""

    labels: str | None = None
    label_column: str | None = None
    captions: str | None = None
    templates: tuple[str, ...] = TEMPLATES
    max_rows: int = 10_000
    column: str = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """`absent`: entries of the file that have no row with a vector in the table."""

    table: str
    version: int
    column: str
    model: str
    rows: int
    absent: int
    zero_shot: ZeroShot | None
    retrieval: Retrieval | None


def evaluate(table: Table, options: EvaluateOptions) -> Evaluation:
    """Raises UserError for a file that cannot be used, and where nothing is left to judge."""
    if not 1 <= options.max_rows <= MAX_ROWS:
        raise UserError(f"max_rows {options.max_rows} is out of range", f"give 1 to {MAX_ROWS}")
    for template in options.templates:
        if template.count(PLACEHOLDER) != 1:
            raise UserError(f"the template '{template}' must hold {PLACEHOLDER} once", "write 'a photo of a {label}.'")
    fingerprint = table.snapshot.fingerprint(options.column)
    shot = found = None
    if options.labels or options.label_column:
        pairs, source = _labels(table, options)
        shot, absent = _zero_shot(table, pairs, options)
    else:
        pairs, source = _captions(table, options)
        found, absent = _retrieval(table, pairs, options)
    rows = shot.rows if shot else found.images if found else 0
    if not rows:
        raise UserError(f"none of {source} is in the table {table.uri}", "its first column is `id` or `uri`, exactly")
    return Evaluation(
        table=table.uri,
        version=table.version,
        column=options.column,
        model=fingerprint.model,
        rows=rows,
        absent=absent,
        zero_shot=shot,
        retrieval=found,
    )


def _labels(table: Table, options: EvaluateOptions) -> tuple[Pairs, str]:
    if options.labels:
        return read_pairs(table, options.labels, "label", options.max_rows), options.labels
    assert options.label_column is not None
    table.snapshot.check_columns((options.label_column,))
    return _column_pairs(table, options.label_column, options), f"column {options.label_column}"


def _captions(table: Table, options: EvaluateOptions) -> tuple[Pairs, str]:
    if options.captions:
        return read_pairs(table, options.captions, "caption", options.max_rows), options.captions
    return _column_pairs(table, "caption", options), "the captions"


def _column_pairs(table: Table, column: str, options: EvaluateOptions) -> Pairs:
    dataset = table.snapshot.dataset
    ids = dataset.scanner(columns=["id", column], filter=f"{column} IS NOT NULL AND {options.column} IS NOT NULL")
    found = ids.to_table().to_pylist()
    values = ((row["id"], row[column] if isinstance(row[column], list) else [row[column]]) for row in found)
    return sampled([(row_id, str(value)) for row_id, several in values for value in several], options.max_rows)


def _zero_shot(table: Table, pairs: Pairs, options: EvaluateOptions) -> tuple[ZeroShot, int]:
    from clipmill.workers.tag import embed_labels

    places, images_ND = vectors_of(table, [row_id for row_id, _ in pairs], options.column)
    known = [(row_id, label) for row_id, label in pairs if row_id in places]
    names = sorted({label for _, label in known})
    if len(names) > MAX_LABELS:
        raise UserError(f"there are {len(names):,} different labels", f"at most {MAX_LABELS:,} are compared")
    if not names:
        return zero_shot(images_ND, images_ND, np.zeros((0, 0), np.bool_), []), len(pairs)
    vocabulary = Vocabulary(
        name="evaluation",
        labels=tuple(Label(name=name.replace("_", " ")) for name in names),
        templates=options.templates,
    )
    labels_LD = embed_labels(vocabulary, table.engine(options.column))
    number = {name: n for n, name in enumerate(names)}
    truth_NL = np.zeros((len(places), len(names)), dtype=np.bool_)
    for row_id, label in known:
        truth_NL[places[row_id], number[label]] = True
    return zero_shot(images_ND, labels_LD, truth_NL, names), len(pairs) - len(known)


def _retrieval(table: Table, pairs: Pairs, options: EvaluateOptions) -> tuple[Retrieval, int]:
    places, images_ND = vectors_of(table, [row_id for row_id, _ in pairs], options.column)
    kept = [(row_id, text) for row_id, text in pairs if row_id in places]
    owner_M: npt.NDArray[np.int64] = np.array([places[row_id] for row_id, _ in kept], dtype=np.int64)
    texts_MD = _text_vectors(table, kept, options)
    return retrieval(images_ND, texts_MD, owner_M), len(pairs) - len(kept)


def _text_vectors(table: Table, kept: Pairs, options: EvaluateOptions) -> Floats:
    """From the table where they are stored, else through the model."""
    stored = f"caption_{options.column}"
    if options.captions is None and stored in table.schema.names:
        places, vectors_ND = vectors_of(table, [row_id for row_id, _ in kept], stored)
        if len(places) == len(kept):
            return vectors_ND[[places[row_id] for row_id, _ in kept]]
    engine = table.engine(options.column)
    blocks = [np.zeros((0, engine.dim), np.float32)]
    for start in range(0, len(kept), 512):
        blocks.append(encode_texts(engine, tuple(text for _, text in kept[start : start + 512])))
    return np.concatenate(blocks)


def plot(evaluation: Evaluation) -> str:
    """An SVG: recall in both directions, or accuracy and the confusion of the most frequent labels."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("evaluate.svg.j2").render(e=evaluation, **_plotted(evaluation))


def _plotted(evaluation: Evaluation) -> dict[str, Any]:
    if evaluation.zero_shot is None:
        return {}
    shot = evaluation.zero_shot
    confusion_LL = np.array(shot.confusion)
    chosen = np.sort(np.argsort(-confusion_LL.sum(axis=1), kind="stable")[:_PLOTTED_LABELS])
    shares = confusion_LL / np.maximum(confusion_LL.sum(axis=1, keepdims=True), 1)
    return {
        "labels": [shot.labels[i] for i in chosen],
        "shares": shares[np.ix_(chosen, chosen)].tolist(),
        "counts": confusion_LL[np.ix_(chosen, chosen)].tolist(),
    }
