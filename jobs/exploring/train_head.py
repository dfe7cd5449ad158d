"""`clipmill train-head TABLE --labels FILE`: a logistic head on stored vectors, with a figure on rows it has not seen.

N: labelled rows. D: dimension.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmill.jobs.exploring.logistic import Bools, area_under_curve, best_threshold, fit, log_loss
from clipmill.jobs.exploring.pairs import Pairs, read_pairs, vectors_of
from clipmill.jobs.querying.open import Table
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.heads import HeadFile
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.words import counted
from clipmill.workers.store.whole import written_whole

MAX_ROWS = 200_000
MIN_EACH = 10
L2 = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TRUE, FALSE = {"1", "true", "yes", "y", "positive"}, {"0", "false", "no", "n", "negative"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """`labels`: a CSV file with id (or uri) and label. `positive`: the label to tell from all others; None for labels
    that are yes and no. `held_out`: share of the rows that the head is judged by and not fitted to."""

    labels: str
    out: str
    positive: str | None = None
    column: str = "vector"
    held_out: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """`rows` were fitted to. Of the `held_out` rows: `accuracy` at 0.5 beside that of always saying what most are
    (`baseline`), `auc`, and the best `f1` with the `threshold` it has. `absent`: entries of the file without a row or a
    vector in the table. `note`: where chance alone gives such an `auc`."""

    table: str
    file: str
    hash: str
    model: str
    rows: int
    true: int
    held_out: int
    held_out_true: int
    absent: int
    accuracy: float
    baseline: float
    auc: float
    f1: float
    threshold: float
    l2: float
    note: str = ""


def train_head(table: Table, options: TrainOptions, *, tell: Callable[[str], None] = lambda _: None) -> Trained:
    """Fit and write the head. Raises UserError for labels that cannot be used, or too few of them."""
    fingerprint = table.snapshot.fingerprint(options.column)
    pairs = read_pairs(table, options.labels, "label", MAX_ROWS)
    truth = _truth(pairs, options)
    places, vectors_ND = vectors_of(table, list(truth), options.column)
    ids = list(places)
    truth_N = np.array([truth[row_id] for row_id in ids], np.bool_)
    part_N = _parts(table, ids, options.held_out)
    for what, here_N in (("to fit to", part_N == 0), ("to choose by", part_N == 1), ("held out", part_N == 2)):
        _enough(truth_N[here_N], what, options)
    tell(f"fitting to {counted(int((part_N < 2).sum()), 'row')}, {int(truth_N[part_N < 2].sum()):,} of them true")
    l2 = min(L2, key=lambda l2: _loss(vectors_ND, truth_N, part_N, l2))
    model = fit(vectors_ND[part_N < 2], truth_N[part_N < 2], l2)
    held_N = part_N == 2
    logits_N, held_truth_N = model.logits(vectors_ND[held_N]), truth_N[held_N]
    threshold, f1 = best_threshold(1 / (1 + np.exp(-logits_N)), held_truth_N)
    digest = _write(options.out, model.weight_D, model.bias, fingerprint)
    share = float(held_truth_N.mean())
    auc = area_under_curve(logits_N, held_truth_N)
    return Trained(
        table=table.uri,
        file=options.out,
        hash=digest,
        model=f"{fingerprint.model} {fingerprint.pretrained}".strip(),
        rows=int((part_N < 2).sum()),
        true=int(truth_N[part_N < 2].sum()),
        held_out=int(held_N.sum()),
        held_out_true=int(held_truth_N.sum()),
        absent=sum(row_id not in places for row_id, _ in pairs),
        accuracy=round(float(((logits_N > 0) == held_truth_N).mean()), 4),
        baseline=round(max(share, 1 - share), 4),
        auc=round(auc, 4),
        f1=round(f1, 4),
        threshold=round(threshold, 4),
        l2=l2,
        note=_by_chance(auc, int(held_truth_N.sum()), int((~held_truth_N).sum())),
    )


def _by_chance(auc: float, true: int, false: int) -> str:
    """Within two standard errors of what scores that know nothing reach (Mann and Whitney: 0.5, with a variance of
    (m + n + 1) / 12mn)."""
    if auc >= 0.5 + 2 * math.sqrt((true + false + 1) / (12 * true * false)):
        return ""
    return f"chance alone gives such an auc on {true + false} held-out rows: these vectors may not show it; label more"


def _truth(pairs: Pairs, options: TrainOptions) -> dict[str, bool]:
    """By id. With `positive` a picture of several labels is true where one of them is it."""
    truth: dict[str, bool] = {}
    for row_id, label in pairs:
        if not row_id:  # an address that no row has
            continue
        if options.positive is not None:
            truth[row_id] = truth.get(row_id, False) or label == options.positive
            continue
        word = label.strip().lower()
        if word not in TRUE | FALSE:
            raise UserError(
                f"{options.labels}: the label '{label[:60]}' is neither yes nor no",
                "write 1 and 0, or say which label to tell from the others: --positive LABEL",
            )
        if truth.setdefault(row_id, word in TRUE) != (word in TRUE):
            raise UserError(f"{options.labels}: {row_id} is labelled both yes and no", "keep one of the two lines")
    return truth


def _parts(table: Table, ids: Sequence[str], held_out: float) -> npt.NDArray[np.int8]:
    """0 to fit to, 1 to choose the penalty by, 2 held out; by a hash of the picture's bytes, so that copies of one
    picture are never on both sides, and the same file gives the same head."""
    part: dict[str, int] = {}
    for start in range(0, len(ids), 1000):
        found = table.get(list(ids[start : start + 1000]), ("id", "image_hash"))
        for row_id, image_hash in zip(found["id"].to_pylist(), found["image_hash"].to_pylist(), strict=True):
            digest = hashlib.sha256(f"train-head {image_hash}".encode()).digest()
            share = int.from_bytes(digest[:6], "big") / 2**48
            part[row_id] = 2 if share < held_out else 1 if share < held_out + 0.2 * (1 - held_out) else 0
    return np.array([part[row_id] for row_id in ids], np.int8)


def _enough(truth: Bools, what: str, options: TrainOptions) -> None:
    true = int(truth.sum())
    least = MIN_EACH if what == "to fit to" else 2
    if true < least or len(truth) - true < least:
        found = f"{true} are true and {len(truth) - true} are not; each takes {least}"
        raise UserError(
            f"{options.labels}: of the rows {what}, {found}",
            "label more pictures of the table; ids must be those of its rows",
        )


def _loss(vectors_ND: npt.NDArray[np.float32], truth_N: Bools, part_N: npt.NDArray[np.int8], l2: float) -> float:
    model = fit(vectors_ND[part_N == 0], truth_N[part_N == 0], l2)
    return log_loss(model.logits(vectors_ND[part_N == 1]), truth_N[part_N == 1])


def _write(path: str, weight_D: npt.NDArray[np.float64], bias: float, fingerprint: Fingerprint) -> str:
    """The head as `heads:` takes it, with the model it is for; its hash. Written whole or not at all."""
    from safetensors.numpy import save

    from clipmill.workers.heads import load_head

    arrays = {"weight": weight_D[None].astype(np.float32), "bias": np.array([bias], np.float32)}
    said = {"output": "sigmoid", "weights_sha256": fingerprint.weights_sha256, "model": fingerprint.model}
    with written_whole(Path(path)) as half:
        half.write_bytes(save(arrays, metadata={**said, "pretrained": fingerprint.pretrained}))
    return load_head("head", HeadFile(file=path)).hash
