"""The layers of open_clip's own towers in numpy, fp32, for one picture or text at a time.

L tokens, W width, H heads; C channels, h and w of a feature map.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_LN_EPS, _BN_EPS, _QUICK = 1e-5, 1e-5, np.float32(1.702)


class Layers:
    """`weights`: by the names of open_clip's CLIP. Every method raises KeyError where one is missing."""

    def __init__(self, weights: Mapping[str, Array], *, heads: int, activation: Callable[[Array], Array]) -> None:
        self.weights, self._heads, self._activation = weights, heads, activation

    def block(self, name: str, x_LW: Array, mask_LL: Array | None = None) -> Array:
        """A ResidualAttentionBlock."""
        normed_LW = self.norm(f"{name}.ln_1", x_LW)
        qkv = normed_LW @ self.weights[f"{name}.attn.in_proj_weight"].T + self.weights[f"{name}.attn.in_proj_bias"]
        q_LW, k_LW, v_LW = np.split(qkv, 3, axis=-1)
        x_LW = x_LW + self.linear(f"{name}.attn.out_proj", self.mixed(q_LW, k_LW, v_LW, mask_LL))
        inner = self.linear(f"{name}.mlp.c_fc", self.norm(f"{name}.ln_2", x_LW))
        return x_LW + self.linear(f"{name}.mlp.c_proj", self._activation(inner))

    def mixed(self, q_QW: Array, k_LW: Array, v_LW: Array, mask_QL: Array | None = None) -> Array:
        """The values as each of the Q queries attends to them (Q, W)."""
        q_HQD, k_HLD, v_HLD = (x.reshape(len(x), self._heads, -1).transpose(1, 0, 2) for x in (q_QW, k_LW, v_LW))
        scores_HQL = q_HQD @ k_HLD.transpose(0, 2, 1) / np.float32(np.sqrt(q_HQD.shape[-1]))
        if mask_QL is not None:
            scores_HQL = scores_HQL + mask_QL
        scores_HQL = np.exp(scores_HQL - scores_HQL.max(axis=-1, keepdims=True))
        mixed_HQD = (scores_HQL / scores_HQL.sum(axis=-1, keepdims=True)) @ v_HLD
        made: Array = mixed_HQD.transpose(1, 0, 2).reshape(q_QW.shape)
        return made

    def linear(self, name: str, x: Array) -> Array:
        made: Array = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return made

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_LN_EPS))
        made: Array = centred * scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return made

    def conv(self, name: str, norm: str, x_Chw: Array, *, stride: int = 1) -> Array:
        """A convolution without bias, of 1 x 1 or 3 x 3 pixels and padded to its size, and the BatchNorm after it."""
        weight, of = self.weights[f"{name}.weight"], self.weights
        scale = of[f"{norm}.weight"] / np.sqrt(of[f"{norm}.running_var"] + np.float32(_BN_EPS))
        shift = of[f"{norm}.bias"] - of[f"{norm}.running_mean"] * scale
        out, size = len(weight), weight.shape[-1]
        if size > 1:
            edge = size // 2
            padded_Chw = np.pad(x_Chw, ((0, 0), (edge, edge), (edge, edge)))
            seen_Chwkk = np.lib.stride_tricks.sliding_window_view(padded_Chw, (size, size), axis=(1, 2))
            x_Chw = seen_Chwkk[:, ::stride, ::stride].transpose(0, 3, 4, 1, 2)
        height, width = x_Chw.shape[-2:]
        rows_KN = x_Chw.reshape(-1, height * width)
        made: Array = (weight.reshape(out, -1) * scale[:, None]) @ rows_KN + shift[:, None]
        return made.reshape(out, height, width)


def mean_pool(x_Chw: Array, size: int) -> Array:
    """The mean of every `size` x `size` places; what is less than that is dropped."""
    if size == 1:
        return x_Chw
    channels, height, width = x_Chw.shape
    h, w = height // size, width // size
    grid = x_Chw[:, : h * size, : w * size].reshape(channels, h, size, w, size)
    made: Array = grid.mean(axis=(2, 4))
    return made


def quick_gelu(x: Array) -> Array:
    with np.errstate(over="ignore"):
        made: Array = x / (1 + np.exp(-_QUICK * x))
    return made


def gelu(x: Array) -> Array:
    """x times the normal distribution's integral; its erf by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    made: Array = np.float32(0.5) * x * (1 + erf)
    return made


class OneThread:
    """BLAS has one thread as long as anybody is inside: products of a few tokens gain little from more, and threads
    that spin while they wait take ten times as much on a busy machine."""

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController  # where it is missing, so is torch, which is then named

        self._lock, self._inside = threading.Lock(), 0
        self._controller = ThreadpoolController()
        self._limited: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limited = self._controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limited.restore_original_limits()
