"""How good vectors are, as pure functions: zero-shot accuracy, retrieval recall, mean reciprocal rank.

N: images. M: texts. L: labels. D: dimension. All vectors unit length.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_BLOCK = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """`confusion[t][p]`: images of label t that were taken for p. `per_label`: top-1 accuracy. `chance`: of a guess.

    An image with several labels is right where its nearest label is any of them; for `confusion` its label is the
    nearest of its own. `several`: how many images have more than one."""

    rows: int
    several: int
    labels: list[str]
    top1: float
    top5: float
    chance: float
    per_label: dict[str, float]
    confusion: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """`recall`: by k, the share of queries whose match is among the k nearest. `mrr`: mean reciprocal rank."""

    queries: int
    recall: dict[str, float]
    mrr: float
    median_rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    images: int
    texts: int
    text_to_image: Direction
    image_to_text: Direction


def zero_shot(images_ND: Floats, labels_LD: Floats, truth_NL: npt.NDArray[np.bool_], names: list[str]) -> ZeroShot:
    """Each image takes the label whose vector is nearest (Radford et al. 2021, section 3.1.2). `truth_NL`: the labels
    of each image, at least one. Ties go to the label that is wrong, so that vectors without any difference score 0 and
    not by luck of the order."""
    count = len(names)
    confusion_LL = np.zeros((count, count), dtype=np.int64)
    right_L = np.zeros(count, dtype=np.int64)
    in_five = num_right = 0
    for start in range(0, len(images_ND), _BLOCK):
        truth_BL = truth_NL[start : start + _BLOCK]
        cosine_BL = images_ND[start : start + _BLOCK] @ labels_LD.T
        own_BL = np.where(truth_BL, cosine_BL, -np.inf)
        others_BL = np.where(truth_BL, -np.inf, cosine_BL)
        ahead_B = (others_BL >= own_BL.max(axis=1, keepdims=True)).sum(axis=1)
        in_five += int((ahead_B < 5).sum())
        num_right += int((ahead_B == 0).sum())
        right_L += truth_BL[ahead_B == 0].sum(axis=0)
        label_B = own_BL.argmax(axis=1)
        taken_B = np.where(ahead_B == 0, label_B, others_BL.argmax(axis=1))
        np.add.at(confusion_LL, (label_B, taken_B), 1)
    totals_L = truth_NL.sum(axis=0)
    rows = len(images_ND)
    return ZeroShot(
        rows=rows,
        several=int((truth_NL.sum(axis=1) > 1).sum()),
        labels=names,
        top1=num_right / max(rows, 1),
        top5=in_five / max(rows, 1),
        chance=float(truth_NL.sum() / max(truth_NL.size, 1)),
        per_label={n: float(r / t) for n, r, t in zip(names, right_L, totals_L, strict=True) if t},
        confusion=confusion_LL.tolist(),
    )


def retrieval(
    images_ND: Floats, texts_MD: Floats, owner_M: npt.NDArray[np.int64], ks: tuple[int, ...] = (1, 5, 10)
) -> Retrieval:
    """Both directions over all pairs. `owner_M`: the image that each text belongs to; an image may have several, and
    is found by the best of them."""
    ranks_M = np.concatenate([np.zeros(0), *_ranks_of_images(images_ND, texts_MD, owner_M)])
    ranks_N = np.full(len(images_ND), np.inf)
    for text, rank in _ranks_of_texts(images_ND, texts_MD, owner_M):
        np.minimum.at(ranks_N, owner_M[text], rank)
    return Retrieval(
        images=len(images_ND),
        texts=len(texts_MD),
        text_to_image=_direction(ranks_M, ks),
        image_to_text=_direction(ranks_N[np.isfinite(ranks_N)], ks),
    )


def _rank(cosine: Floats, own: Floats) -> npt.NDArray[np.float64]:
    """1 + those strictly nearer + half of those equally near, so that a model that says the same of everything ranks
    in the middle and never first."""
    nearer = (cosine > own[:, None]).sum(axis=1)
    equal = (cosine == own[:, None]).sum(axis=1) - 1
    return np.asarray(1 + nearer + equal / 2, dtype=np.float64)


def _ranks_of_images(
    images_ND: Floats, texts_MD: Floats, owner_M: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.float64]]:
    parts = []
    for start in range(0, len(texts_MD), _BLOCK):
        cosine_BN = texts_MD[start : start + _BLOCK] @ images_ND.T
        own_B = cosine_BN[np.arange(len(cosine_BN)), owner_M[start : start + _BLOCK]]
        parts.append(_rank(cosine_BN, own_B))
    return parts


def _ranks_of_texts(
    images_ND: Floats, texts_MD: Floats, owner_M: npt.NDArray[np.int64]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """(texts, their ranks among all texts for their own image)."""
    parts = []
    for start in range(0, len(texts_MD), _BLOCK):
        texts = np.arange(start, min(start + _BLOCK, len(texts_MD)))
        cosine_BM = images_ND[owner_M[texts]] @ texts_MD.T
        parts.append((texts, _rank(cosine_BM, cosine_BM[np.arange(len(texts)), texts])))
    return parts


def _direction(ranks: npt.NDArray[np.float64], ks: tuple[int, ...]) -> Direction:
    found = len(ranks) > 0
    return Direction(
        queries=len(ranks),
        recall={str(k): float((ranks <= k).mean()) if found else 0.0 for k in ks},
        mrr=float((1 / ranks).mean()) if found else 0.0,
        median_rank=float(np.median(ranks)) if found else 0.0,
    )
