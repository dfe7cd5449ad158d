"""Zero-shot tags: from image vectors and label vectors to the best labels of each image.

Shapes: B images, L labels, D dimension of the shared space. numpy and pyarrow only; the text tower is asked once per
vocabulary, and its vectors can be shipped (`Tagger.from_vectors`).

Semantics (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", sections
3.1.2 and 3.1.4): a label's vector is the mean of the unit text vectors of all its prompts (templates x synonyms),
scaled back to unit length. Scores are softmax(logit_scale * cosine) over the labels of one facet; for models trained
with a sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"), which have a bias,
sigmoid(logit_scale * cosine + bias) for each label alone.
`top_k` and `min_score` hold per facet: a picture has at most top_k tags of each facet, all mixed best first. A label
that was calibrated has a threshold of its own instead of `min_score` (`Vocabulary.thresholds`).
"""

import copy
import importlib.util
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import require
from clipmill.schemas.job.config import Storage, Tags
from clipmill.schemas.job.vocabulary import PLACEHOLDER, Label, Vocabulary, parse_vocabulary
from clipmill.schemas.model import Fingerprint
from clipmill.workers.engine import Engine, OutOfMemory

Floats = npt.NDArray[np.float32]
Best = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]  # row, label and score of each tag
BUILT_IN = ("coco", "imagenet", "scenes")
_MAX_FILE_BYTES = 16_000_000
# Rows x labels of float32 that are looked at while they are in a cache: 512 rows of 1,000 labels, and never under 64
# rows, where a product is slower than its passes.
_LOGITS_AT_ONCE, _MIN_ROWS = 512_000, 64
_SLACK = 1e-5  # relative: far over what float32 rounds in a product or a quotient
_TEXTS_AT_ONCE = 1024


def load_vocabulary(name_or_path: str, storage: Storage | None = None) -> Vocabulary:
    """A built-in vocabulary by name, or one from a YAML or CSV file, local or at a URI.

    Raises UserError where there is no such thing or the file is wrong.
    """
    if name_or_path == "imagenet":
        return _imagenet()
    if name_or_path in BUILT_IN:
        path = _package_folder("clipmill.schemas") / "vocabularies" / f"{name_or_path}.yaml"
        return parse_vocabulary(path.read_text("utf-8"), name=name_or_path, where=f"vocabulary '{name_or_path}'")
    suffix = Path(name_or_path).suffix.lower()
    if suffix not in (".yaml", ".yml", ".csv"):
        raise UserError(
            f"there is no vocabulary '{name_or_path}'",
            f"built in are {', '.join(BUILT_IN)}; anything else is a file that ends in .yaml or .csv",
        )
    text = _read(name_or_path, storage or Storage())
    form = "csv" if suffix == ".csv" else "yaml"
    return parse_vocabulary(text, name=Path(name_or_path).stem, where=name_or_path, form=form)


def _read(name: str, storage: Storage) -> str:
    if "://" in name:
        from clipmill.workers.store.storage import (
            get_bytes,  # the object-store client is heavy, and most vocabularies are local
        )

        raw: bytes = get_bytes(name, storage, max_bytes=_MAX_FILE_BYTES)
    else:
        try:
            with open(name, "rb") as file:
                raw = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UserError(
                f"the vocabulary {name} cannot be read: {error.strerror}",
                f"check the path; built in are {', '.join(BUILT_IN)}",
            ) from None
        if len(raw) > _MAX_FILE_BYTES:
            raise UserError(f"the vocabulary {name} is larger than {_MAX_FILE_BYTES:,} bytes", "is it the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8 text", "save the file as UTF-8") from None


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec else None
    assert origin is not None, f"{package} is not installed"
    return Path(origin).parent


def _imagenet() -> Vocabulary:
    """ImageNet's names and CLIP's 80 templates, as open_clip ships them.

    Two of the 1,000 names stand there twice (missile, sunglasses). As tags they are one, so 998 labels remain.
    """
    require("the vocabulary 'imagenet'", "open_clip")
    # The data file alone: importing open_clip itself would import torch, which a driver must not need.
    path = _package_folder("open_clip") / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("clipmill_imagenet", path)
    assert spec is not None
    assert spec.loader is not None
    module = types.ModuleType(spec.name)
    spec.loader.exec_module(module)
    names = dict.fromkeys(module.IMAGENET_CLASSNAMES)
    return Vocabulary(
        name="imagenet",
        labels=tuple(Label(name=name) for name in names),
        templates=tuple(template(PLACEHOLDER) for template in module.OPENAI_IMAGENET_TEMPLATES),
    )


def embed_labels(vocabulary: Vocabulary, engine: Engine) -> Floats:
    """Label vectors (L, D), unit length. Each text goes through the tower once, texts of a length together.

    Raises UserError where the model gives no finite vector for a label.
    """
    uses: dict[str, list[int]] = {}
    for index, label in enumerate(vocabulary.labels):
        for prompt in vocabulary.prompts(label):
            uses.setdefault(prompt, []).append(index)
    sums_LD = np.zeros((len(vocabulary.labels), engine.dim), np.float32)
    # Sorted, because a batch costs what its longest text costs.
    for texts, vectors_BD in _encode(sorted(uses, key=len), engine):
        owners = [uses[text] for text in texts]
        rows = np.repeat(np.arange(len(texts)), [len(owner) for owner in owners])
        np.add.at(sums_LD, np.concatenate(owners), vectors_BD[rows])
    norms_L = np.linalg.norm(sums_LD, axis=1)
    bad = np.flatnonzero(~(norms_L > 1e-6))
    if bad.size:
        raise UserError(
            f"the model gives no finite text vector for the label '{vocabulary.labels[bad[0]].name}'",
            "check the model's weights, or run it with precision: fp32",
        )
    return np.asarray(sums_LD / norms_L[:, None], np.float32)


def _encode(texts: Sequence[str], engine: Engine) -> Iterator[tuple[Sequence[str], Floats]]:
    """Batches of texts with their vectors; a batch that does not fit is halved, and so are those after it."""
    start, size = 0, _TEXTS_AT_ONCE
    while start < len(texts):
        batch = texts[start : start + size]
        try:
            vectors_BD = engine.encode_texts(batch)
        except OutOfMemory:
            if size == 1:
                raise
            size = max(1, size // 2)
            continue
        yield batch, vectors_BD
        start += size


def unknown_labels(vocabulary: Vocabulary, engine: Engine) -> list[str]:
    """Labels that the model was never trained on: neither the name nor a synonym is made of words that it knows."""
    return [
        label.name
        for label in vocabulary.labels
        if all(engine.unknown_words([text]) for text in (label.name, *label.synonyms))
    ]


class Tagger:
    """Tags batches of image vectors. Immutable, so threads may share it."""

    def __init__(
        self, vocabulary: Vocabulary, vectors_LD: Floats, tags: Tags, *, logit_scale: float, logit_bias: float | None
    ) -> None:
        assert vectors_LD.shape[0] == len(vocabulary.labels), (vectors_LD.shape, len(vocabulary.labels))
        self.vocabulary = vocabulary
        self.tags = tags
        self.vectors_LD = np.ascontiguousarray(vectors_LD, np.float32)
        self._scaled_DL = np.ascontiguousarray((self.vectors_LD * np.float32(logit_scale)).T)
        self._logit_bias = logit_bias
        self._least_L = _least(vocabulary, tags)
        self._names = pa.array([label.name for label in vocabulary.labels], pa.string())

    @staticmethod
    def build(vocabulary: Vocabulary, engine: Engine, tags: Tags) -> "Tagger":
        """Embed the labels with `engine` and tag as `tags` says."""
        return Tagger.from_vectors(vocabulary, embed_labels(vocabulary, engine), engine.fingerprint, tags)

    @staticmethod
    def from_vectors(vocabulary: Vocabulary, vectors_LD: Floats, fingerprint: Fingerprint, tags: Tags) -> "Tagger":
        """With label vectors computed elsewhere by the model of `fingerprint`; loads no model."""
        return Tagger(
            vocabulary, vectors_LD, tags, logit_scale=fingerprint.logit_scale, logit_bias=fingerprint.logit_bias
        )

    def with_thresholds(self, thresholds: Mapping[str, float]) -> "Tagger":
        """The same labels, with these least scores instead of `min_score`."""
        found = copy.copy(self)
        found.vocabulary = replace(self.vocabulary, thresholds=dict(thresholds))
        found._least_L = _least(found.vocabulary, self.tags)
        return found

    @property
    def metadata_json(self) -> str:
        """What the table's `tags` field carries: clipmill.schemas.columns.VOCABULARY_KEY."""
        about: dict[str, Any] = {
            "name": self.vocabulary.name,
            "hash": self.vocabulary.hash,
            "top_k": self.tags.top_k,
            "min_score": self.tags.min_score,
        }
        if self.vocabulary.thresholds:
            about["thresholds"] = dict(sorted(self.vocabulary.thresholds.items()))
        return json.dumps(about, sort_keys=True)

    def scores(self, vectors_BD: npt.NDArray[np.floating]) -> Floats:
        """Of every label, (B, L), whatever its threshold."""
        logits_BL = np.asarray(vectors_BD, np.float32) @ self._scaled_DL
        for _, first, stop in self.vocabulary.facets:
            logits_BL[:, first:stop] = self._scores(logits_BL[:, first:stop])
        return np.asarray(logits_BL, np.float32)

    def tag(self, vectors_BD: npt.NDArray[np.floating]) -> tuple[pa.ListArray, pa.ListArray]:
        """Tags list<string> and scores list<float32>, B of each, parallel, best first, ties in vocabulary order.

        `vectors_BD` are unit length, float32 or float16. A row that is not finite gets no tags.
        """
        vectors_BD = np.asarray(vectors_BD, np.float32)
        num_rows, num_labels = len(vectors_BD), len(self._names)
        finite_B = np.isfinite(vectors_BD).all(axis=1)
        if not finite_B.all():
            vectors_BD = np.where(finite_B[:, None], vectors_BD, np.float32(0))
        parts = [_NOTHING]
        at_once = max(_MIN_ROWS, _LOGITS_AT_ONCE // num_labels)
        space_BL = np.empty((min(at_once, num_rows), num_labels), np.float32)
        for start in range(0, num_rows, at_once):
            rows_BD = vectors_BD[start : start + at_once]
            logits_BL = np.matmul(rows_BD, self._scaled_DL, out=space_BL[: len(rows_BD)])
            for _, first, stop in self.vocabulary.facets:
                row, label, score = self._best(logits_BL[:, first:stop], self._least_L[first:stop])
                parts.append((row + start, label + first, score))
        row, label, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        row, label, score = row[finite_B[row]], label[finite_B[row]], score[finite_B[row]]
        order = np.lexsort((label, -score, row))
        offsets = np.zeros(num_rows + 1, np.int32)
        np.cumsum(np.bincount(row, minlength=num_rows), out=offsets[1:])
        names = self._names.take(pa.array(label[order]))
        return (
            pa.ListArray.from_arrays(offsets, names),
            pa.ListArray.from_arrays(offsets, pa.array(score[order], pa.float32())),
        )

    def _best(self, logits_BL: Floats, least_L: Floats) -> Best:
        """(row, label, score) of what one facet gives: at most top_k labels a row, none under its least score.

        Overwrites `logits_BL`.
        """
        least = float(least_L[0])
        if self._logit_bias is None and least > 0 and bool((least_L == least_L[0]).all()):
            return self._best_of_softmax(logits_BL, least_L[0])
        return self._best_of(self._scores(logits_BL), least_L)

    def _best_of_softmax(self, logits_BL: Floats, least: np.float32) -> Best:
        """The same where one threshold holds for all: most labels are under it before they are divided by the sum."""
        sums_B1 = _exp(logits_BL)
        near = np.flatnonzero(logits_BL >= sums_B1 * (least * np.float32(1 - _SLACK)))
        row, label = np.divmod(near, logits_BL.shape[1])
        score = logits_BL[row, label] / sums_B1[row, 0]
        kept = score >= least
        row, label, score = row[kept], label[kept], score[kept]
        counts_B = np.bincount(row, minlength=len(logits_BL))
        full = np.flatnonzero(counts_B > self.tags.top_k)
        if not full.size:
            return row, label, score
        few = counts_B[row] <= self.tags.top_k
        cut_row, cut_label, cut_score = self._best_of(logits_BL[full] / sums_B1[full], np.full(1, least))
        parts = ((row[few], full[cut_row]), (label[few], cut_label), (score[few], cut_score))
        merged = [np.concatenate(part) for part in parts]
        return merged[0], merged[1], merged[2]

    def _best_of(self, scores_BL: Floats, least_L: Floats) -> Best:
        top_k = self.tags.top_k
        keep_BL = (scores_BL >= least_L) & (scores_BL > 0)
        # A softmax has at most 1 / min_score labels over min_score, so the rows to cut are few or none.
        full = np.flatnonzero(np.count_nonzero(keep_BL, axis=1) > top_k)
        if full.size:
            kth_F1 = np.partition(scores_BL[full], -top_k, axis=1)[:, -top_k, None]
            above_FL, tied_FL = scores_BL[full] > kth_F1, scores_BL[full] == kth_F1
            room_F1 = top_k - np.count_nonzero(above_FL, axis=1)[:, None]
            # Among labels equal at the edge, the first of the vocabulary stay.
            keep_BL[full] = above_FL | (tied_FL & (np.cumsum(tied_FL, axis=1) <= room_F1))
        row, label = np.nonzero(keep_BL)
        return row, label, scores_BL[row, label]

    def _scores(self, logits_BL: Floats) -> Floats:
        if self._logit_bias is not None:
            # exp overflows to infinity for hopeless labels, and 1 / (1 + inf) is the 0 that is meant.
            with np.errstate(over="ignore"):
                return np.asarray(1 / (1 + np.exp(-(logits_BL + np.float32(self._logit_bias)))), np.float32)
        logits_BL /= _exp(logits_BL)
        return logits_BL


def _exp(logits_BL: Floats) -> Floats:
    """Makes them exp(logit - greatest of its row); the sums (B, 1), by which those are probabilities. In place: at
    10,000 labels the memory traffic costs as much as the arithmetic."""
    logits_BL -= logits_BL.max(axis=1, keepdims=True)
    np.exp(logits_BL, out=logits_BL)
    return np.asarray(logits_BL.sum(axis=1, keepdims=True), np.float32)


def _least(vocabulary: Vocabulary, tags: Tags) -> Floats:
    known = vocabulary.thresholds
    return np.array([known.get(label.name, tags.min_score) for label in vocabulary.labels], np.float32)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
