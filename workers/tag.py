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

from clipmill.schemas.config import Storage, Tags
from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import require
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.vocabulary import PLACEHOLDER, Label, Vocabulary, parse_vocabulary
from clipmill.workers.engine import Engine, OutOfMemory

Floats = npt.NDArray[np.float32]
BUILT_IN = ("coco", "imagenet", "scenes")
_MAX_FILE_BYTES = 16_000_000
_ROWS_AT_ONCE = 64  # 64 rows x 10,000 labels of float32 stay in the second-level cache
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
        self._scaled_DL = (self.vectors_LD * np.float32(logit_scale)).T
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
        num_rows = len(vectors_BD)
        finite_B = np.isfinite(vectors_BD).all(axis=1)
        parts = [_NOTHING]
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            logits_BL = np.where(finite_B[rows, None], vectors_BD[rows], 0) @ self._scaled_DL
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

    def _best(self, logits_BL: Floats, least_L: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        """(row, label, score) of what one facet gives: at most top_k labels a row, none under its least score.

        Overwrites `logits_BL`.
        """
        scores_BL, top_k = self._scores(logits_BL), self.tags.top_k
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
        # In place: at 10,000 labels the memory traffic costs as much as the arithmetic.
        logits_BL -= logits_BL.max(axis=1, keepdims=True)
        np.exp(logits_BL, out=logits_BL)
        logits_BL /= logits_BL.sum(axis=1, keepdims=True)
        return logits_BL


def _least(vocabulary: Vocabulary, tags: Tags) -> Floats:
    known = vocabulary.thresholds
    return np.array([known.get(label.name, tags.min_score) for label in vocabulary.labels], np.float32)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
