"""A few pictures to vectors without torch: open_clip's own VisionTransformer and ModifiedResNet in numpy, fp32.

Tests compare with open_clip. What a configuration may say is listed: any other key asks for something else, and the
picture is left to torch.

C = 3 channels, H and W pixels of the model's input, L tokens, W width, D dimension; h and w of a feature map.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clipmill.schemas.model import Preprocess
from clipmill.workers.clip.layers import Array, Layers, gelu, mean_pool, quick_gelu

_KEYS = {"image_size", "layers", "width", "patch_size", "head_width"}
_HEAD_WIDTH = 64  # where the configuration does not say it
_SMALLER = 32  # a ResNet's last feature map beside the picture, across


class PictureTower(Protocol):
    def __call__(self, pixels_CHW: Array) -> Array:
        """Features (D,) of a normalised picture."""
        ...


def picture_tower(weights: Mapping[str, Array], vision: Mapping[str, Any], *, quick: bool) -> PictureTower | None:
    """None for a tower of another kind. `vision`: what open_clip's configuration says of it."""
    if not set(vision) <= _KEYS:
        return None
    head_width = vision.get("head_width", _HEAD_WIDTH)
    if isinstance(vision["layers"], int):
        heads = vision["width"] // head_width
        layers = Layers(weights, heads=heads, activation=quick_gelu if quick else gelu)
        return _Transformer(layers, vision["layers"])
    heads = vision["width"] * _SMALLER // head_width
    return _ResNet(Layers(weights, heads=heads, activation=gelu), vision["layers"])


def normalised(pixels_CHW: npt.NDArray[np.uint8], how: Preprocess) -> Array:
    """uint8 0..255 to float32 with the model's mean and std."""
    mean, std = (np.asarray(value, np.float32)[:, None, None] for value in (how.mean, how.std))
    made: Array = (pixels_CHW.astype(np.float32) / np.float32(255) - mean) / std
    return made


class _Transformer:
    """The class token's feature."""

    def __init__(self, layers: Layers, depth: int) -> None:
        self._layers = layers
        self._blocks = [f"visual.transformer.resblocks.{number}" for number in range(depth)]

    def __call__(self, pixels_CHW: Array) -> Array:
        of = self._layers.weights
        patches_LW = _patches(pixels_CHW, of["visual.conv1.weight"])
        x_LW = np.concatenate([of["visual.class_embedding"][None], patches_LW]) + of["visual.positional_embedding"]
        x_LW = self._layers.norm("visual.ln_pre", x_LW)
        for block in self._blocks:
            x_LW = self._layers.block(block, x_LW)
        features_D: Array = self._layers.norm("visual.ln_post", x_LW[0]) @ of["visual.proj"]
        return features_D


def _patches(pixels_CHW: Array, weight_WCPP: Array) -> Array:
    """The convolution that cuts pixels into patches (L, W); what is less than a patch is dropped."""
    width, channels, size, _ = weight_WCPP.shape
    h, w = pixels_CHW.shape[1] // size, pixels_CHW.shape[2] // size
    grid_ChPwP = pixels_CHW[:, : h * size, : w * size].reshape(channels, h, size, w, size)
    made: Array = grid_ChPwP.transpose(1, 3, 0, 2, 4).reshape(h * w, -1) @ weight_WCPP.reshape(width, -1).T
    return made


class _ResNet:
    """The attention pool's feature of the mean."""

    def __init__(self, layers: Layers, depths: list[int]) -> None:
        self._layers, self._depths = layers, depths

    def __call__(self, pixels_CHW: Array) -> Array:
        x_Chw = pixels_CHW
        for number, stride in ((1, 2), (2, 1), (3, 1)):
            x_Chw = self._positive(f"visual.conv{number}", f"visual.bn{number}", x_Chw, stride)
        x_Chw = mean_pool(x_Chw, 2)
        for number, depth in enumerate(self._depths, start=1):
            for block in range(depth):
                stride = 2 if number > 1 and not block else 1
                x_Chw = self._bottleneck(f"visual.layer{number}.{block}", x_Chw, stride)
        return self._pooled(x_Chw)

    def _positive(self, conv: str, norm: str, x_Chw: Array, stride: int = 1) -> Array:
        made: Array = np.maximum(self._layers.conv(conv, norm, x_Chw, stride=stride), 0)
        return made

    def _bottleneck(self, name: str, x_Chw: Array, stride: int) -> Array:
        inner_Chw = self._positive(f"{name}.conv1", f"{name}.bn1", x_Chw)
        inner_Chw = mean_pool(self._positive(f"{name}.conv2", f"{name}.bn2", inner_Chw), stride)
        inner_Chw = self._layers.conv(f"{name}.conv3", f"{name}.bn3", inner_Chw)
        if f"{name}.downsample.0.weight" in self._layers.weights:
            smaller_Chw = mean_pool(x_Chw, stride)
            x_Chw = self._layers.conv(f"{name}.downsample.0", f"{name}.downsample.1", smaller_Chw)
        made: Array = np.maximum(inner_Chw + x_Chw, 0)
        return made

    def _pooled(self, x_Chw: Array) -> Array:
        pool = "visual.attnpool"
        x_LC = x_Chw.reshape(len(x_Chw), -1).T
        x_LC = np.concatenate([x_LC.mean(axis=0, keepdims=True), x_LC])
        x_LC = x_LC + self._layers.weights[f"{pool}.positional_embedding"]
        q_1C = self._layers.linear(f"{pool}.q_proj", x_LC[:1])
        k_LC, v_LC = (self._layers.linear(f"{pool}.{which}_proj", x_LC) for which in ("k", "v"))
        features_D: Array = self._layers.linear(f"{pool}.c_proj", self._layers.mixed(q_1C, k_LC, v_LC))[0]
        return features_D
