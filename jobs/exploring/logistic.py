"""Logistic regression with an L2 penalty, by Newton's method: the loss is convex and the vectors are short, so some ten
steps are exact and nothing is random. And how good scores are that were held out.

N: examples. D: dimension.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
STEPS = 50
_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """P(true) = sigmoid(weight . vector + bias)."""

    weight_D: Doubles
    bias: float

    def logits(self, vectors_ND: npt.NDArray[np.floating]) -> Doubles:
        return np.asarray(vectors_ND @ self.weight_D + self.bias, np.float64)


def fit(vectors_ND: npt.NDArray[np.floating], truth_N: Bools, l2: float) -> Logistic:
    """The minimum of mean log loss + l2/2 |weight|^2; the bias is not penalised. Both values must occur."""
    dim = vectors_ND.shape[1]
    theta = np.zeros(dim + 1)
    theta[dim] = np.log(truth_N.mean() / (1 - truth_N.mean()))
    penalty = np.full(dim + 1, l2)
    penalty[dim] = 0
    value, gradient, hessian = _derivatives(vectors_ND, truth_N, theta, penalty)
    for _ in range(STEPS):
        step = np.linalg.solve(hessian + 1e-12 * np.eye(dim + 1), gradient)
        size = 1.0
        while size > 1e-8:  # Newton's step may be too long far from the minimum
            tried = theta - size * step
            value_there, gradient_there, hessian_there = _derivatives(vectors_ND, truth_N, tried, penalty)
            if value_there <= value - 1e-4 * size * float(gradient @ step):
                break
            size /= 2
        else:
            break
        theta, value, gradient, hessian = tried, value_there, gradient_there, hessian_there
        if np.abs(gradient).max() < 1e-9:
            break
    return Logistic(weight_D=theta[:dim], bias=float(theta[dim]))


def _derivatives(
    vectors_ND: npt.NDArray[np.floating], truth_N: Bools, theta: Doubles, penalty: Doubles
) -> tuple[float, Doubles, Doubles]:
    """Loss, gradient and Hessian, in blocks of rows."""
    size = len(theta)
    value, gradient, hessian = 0.0, np.zeros(size), np.zeros((size, size))
    for start in range(0, len(truth_N), _BLOCK):
        rows = np.asarray(vectors_ND[start : start + _BLOCK], np.float64)
        rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        truth = truth_N[start : start + _BLOCK]
        logits = rows @ theta
        share = 0.5 * (1 + np.tanh(0.5 * logits))
        value += float((np.logaddexp(0, logits) - truth * logits).sum())
        gradient += rows.T @ (share - truth)
        hessian += (rows * (share * (1 - share))[:, None]).T @ rows
    number = len(truth_N)
    value = value / number + 0.5 * float((penalty * theta) @ theta)
    return value, gradient / number + penalty * theta, hessian / number + np.diag(penalty)


def log_loss(logits_N: Doubles, truth_N: Bools) -> float:
    return float((np.logaddexp(0, logits_N) - truth_N * logits_N).mean())


def area_under_curve(scores_N: Doubles, truth_N: Bools) -> float:
    """That a true example scores above a false one; ties count half (Mann and Whitney)."""
    values, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    true, false = int(truth_N.sum()), int((~truth_N).sum())
    assert len(values), "no scores"
    return float((ranks[place_N][truth_N].sum() - true * (true + 1) / 2) / (true * false))


def best_threshold(scores_N: Doubles, truth_N: Bools) -> tuple[float, float]:
    """(threshold, F1): of `score >= threshold`, the threshold with the best F1; of several the highest, which claims
    least. It lies halfway to the score below, as far as there is one. F1 is 0 where nothing is true."""
    order = np.argsort(-scores_N, kind="stable")
    sorted_N, hits_N = scores_N[order], np.cumsum(truth_N[order])
    ends = np.flatnonzero(np.append(sorted_N[:-1] > sorted_N[1:], True))  # equal scores stand together
    f1 = 2 * hits_N[ends] / (ends + 1 + max(1, int(truth_N.sum())))
    best = int(np.argmax(f1))
    here = float(sorted_N[ends[best]])
    below = float(sorted_N[ends[best] + 1]) if ends[best] + 1 < len(sorted_N) else here
    return (here + below) / 2, float(f1[best])
