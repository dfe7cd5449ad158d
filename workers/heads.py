"""Heads from files that strangers wrote, and their scores. Nothing of a file is run: safetensors and npz hold numbers
alone, and of a .pth only its tensors are read.

What is known of LAION's own files, by the names and widths of their layers (christophschuhmann/
improved-aesthetic-predictor, LAION-AI/aesthetic-predictor, LAION-AI/CLIP-based-NSFW-Detector): all take unit vectors.

D: dimension of the vectors. N: rows. I, O: inputs and outputs of a layer.
"""

import itertools
import os
import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.heads import Activation, Floats, Head, HeadFile, Layer, Output
from clipmill.workers.heads_file import read_tensors
from clipmill.workers.store.uri import split_uri

MAX_LAYERS = 16
MAX_WIDTH = 16_384
_OVERFLOW = 1e30  # no score of a unit vector may come near the end of float32

# nn.Sequential's numbers of the linear layers and their outputs -> what is between them.
_LAION: dict[tuple[tuple[int, ...], tuple[int, ...]], Activation] = {
    ((0, 2, 4, 6, 7), (1024, 128, 64, 16, 1)): "none",  # sac+logos+ava1-l14-linearMSE, ava+logos-l14-linearMSE
    ((0, 3, 6, 9, 11), (1024, 128, 64, 16, 1)): "relu",  # ava+logos-l14-reluMSE
    ((0, 3, 6, 9, 12, 15, 16), (1024, 2048, 1024, 256, 128, 16, 1)): "relu",  # h14_nsfw
}
_WEIGHT = re.compile(r"(?P<stem>(?:.*\.)?(?P<word>[A-Za-z_]*?)_?(?P<number>\d+))\.(?P<what>weight|bias)")
_NORM = ("norm.mean", "norm.variance")


def load_head(name: str, given: HeadFile, storage: Storage | None = None) -> Head:
    """The head `name` of a .safetensors, .npz, .pth or .pt file, local or at a URI. Raises UserError where the file is
    none, says less than is needed, or contradicts what is `given`."""
    tensors, said = read_tensors(given.file, storage or Storage())
    mean_D, scale_D = _norm(tensors, given.file)
    numbers, layers = _layers(tensors, given.file)
    widths = tuple(layer.weight_OI.shape[0] for layer in layers)
    known = _LAION.get((numbers, widths)) if numbers else None
    output: Output | None = _agreed(given, said, "output")
    if mean_D is not None and known is None and not said:  # LAION's NSFW heads for B/32 and L/14
        known, output = "relu", output or "sigmoid"
    activation: Activation | None = _agreed(given, said, "activation") or known
    if activation is None and len(layers) > 1:
        chain = " → ".join(map(str, (layers[0].weight_OI.shape[1], *widths)))
        raise UserError(
            f"heads: {given.file} is an MLP ({chain}) and does not say what is between its layers",
            f"say it: `{name}: {{file: …, activation: relu}}`, or none, silu, tanh",
        )
    layers = [replace(layer, activation=activation or "none") for layer in layers]
    for at, layer in enumerate(layers):
        # Of an nn.Sequential the numbers tell where nothing can be between two layers; behind the last is `output`.
        nothing = at + 1 == len(layers) or (numbers and numbers[at + 1] == numbers[at] + 1)
        layers[at] = replace(layer, activation="none") if nothing else layer
    model, pretrained, weights = _trained_on(given, said)
    head = Head(
        name=name,
        file=given.file,
        layers=tuple(layers),
        mean_D=mean_D,
        scale_D=scale_D,
        output=output or "none",
        pick=_picked(given, said, widths[-1], name),
        model=model,
        pretrained=pretrained,
        weights_sha256=weights,
        given={**given.model_dump(by_alias=True, exclude_none=True), "file": _whole_name(given.file)},
    )
    _check(head)
    return head


def _whole_name(file: str) -> str:
    scheme, path = split_uri(file)
    return os.path.abspath(path) if scheme == "file" else file


def _agreed(given: HeadFile, said: dict[str, str], key: str) -> Any:
    """What the job says or what the file says; a contradiction is told."""
    mine, theirs = getattr(given, key), said.get(key)
    if theirs is not None:  # a stranger's text: checked as the job file's is
        try:
            theirs = getattr(HeadFile.model_validate({"file": given.file, key: theirs}), key)
        except ValueError:
            raise UserError(
                f"heads: {given.file} says {key}: {theirs!r:.40}, which is not known", "export it again"
            ) from None
    if mine is not None and theirs is not None and mine != theirs:
        raise UserError(f"heads: {given.file} says {key}: {theirs}, not {mine}", f"leave `{key}` out")
    return mine if mine is not None else theirs


def _trained_on(given: HeadFile, said: dict[str, str]) -> tuple[str, str, str]:
    """(model, pretrained, weights' hash), each empty where it is not said."""
    if said.get("model") or said.get("weights_sha256"):
        if given.trained_on is not None:
            raise UserError(f"heads: {given.file} says itself what it was trained on", "leave `trained_on` out")
        return said.get("model", "")[:300], said.get("pretrained", "")[:300], said.get("weights_sha256", "")[:64]
    model, _, pretrained = (given.trained_on or "").partition(",")
    return model.strip(), pretrained.strip(), ""


def _picked(given: HeadFile, said: dict[str, str], outputs: int, name: str) -> int:
    text = said.get("class")
    pick = given.pick if given.pick is not None else int(text) if text and text.isdecimal() and len(text) < 4 else None
    if pick is None and outputs > 1:
        raise UserError(
            f"heads: {given.file} gives {outputs} numbers for a picture, a column holds one",
            f"say which: `{name}: {{file: …, output: softmax, class: 1}}`",
        )
    if pick is not None and pick >= outputs:
        raise UserError(f"heads: {given.file} gives {outputs} numbers, there is no class {pick}", "they count from 0")
    return pick or 0


def _norm(tensors: dict[str, Any], file: str) -> tuple[Floats | None, Floats | None]:
    """Of a Keras normalisation as LAION's port of it has: (x - mean) / (sqrt(variance) + 1e-10). Takes them out."""
    if not any(name in tensors for name in _NORM):
        return None, None
    mean, variance = (tensors.pop(name, None) for name in _NORM)
    if mean is None or variance is None or mean.ndim != 1 or mean.shape != variance.shape or not (variance > 0).all():
        raise UserError(f"heads: norm.mean and norm.variance of {file} do not go together", "export the head again")
    return mean, np.asarray(np.sqrt(variance) + 1e-10, np.float32)


def _layers(tensors: dict[str, Any], file: str) -> tuple[tuple[int, ...], list[Layer]]:
    """The linear layers in their order, and their numbers in an nn.Sequential; none where they have none."""
    for alias, name in (("coef_", "weight"), ("intercept_", "bias"), ("coef", "weight"), ("intercept", "bias")):
        if alias in tensors and name not in tensors:  # scikit-learn's names
            tensors[name] = tensors.pop(alias)
    if "weight" in tensors and set(tensors) <= {"weight", "bias"}:
        return (), [_layer(tensors["weight"], tensors.get("bias"), file)]
    found: dict[int, dict[str, Any]] = {}
    stems = set()
    words = set()
    for name, tensor in tensors.items():
        match = _WEIGHT.fullmatch(name)
        if match is None:
            raise _no_head(tensors, file)
        found.setdefault(int(match["number"][:9]), {})[match["what"]] = tensor
        words.add(match["word"])
        stems.add(match["stem"].removesuffix(match["number"]))
    if len(stems) != 1 or not 1 <= len(found) <= MAX_LAYERS or any("weight" not in one for one in found.values()):
        raise _no_head(tensors, file)
    order = sorted(found)
    layers = [_layer(found[number]["weight"], found[number].get("bias"), file) for number in order]
    for before, after in itertools.pairwise(layers):
        if before.weight_OI.shape[0] != after.weight_OI.shape[1]:
            raise _no_head(tensors, file)
    return (tuple(order) if words == {""} else ()), layers


def _layer(weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None, file: str) -> Layer:
    weight = weight[None] if weight.ndim == 1 else weight
    bias = np.zeros(len(weight), np.float32) if bias is None else bias.reshape(-1)
    if weight.ndim != 2 or not all(1 <= n <= MAX_WIDTH for n in weight.shape) or bias.shape != weight.shape[:1]:
        raise _no_head({"weight": weight, "bias": bias}, file)
    return Layer(weight_OI=np.ascontiguousarray(weight), bias_O=np.ascontiguousarray(bias))


def _no_head(tensors: dict[str, Any], file: str) -> UserError:
    shapes = ", ".join(f"{k:.40} {tuple(v.shape)}" for k, v in sorted(tensors.items())[:6])
    return UserError(
        f"heads: {file} is no chain of linear layers ({shapes or 'it holds no numbers'})",
        "a head is a weight (1, D) with a bias, or the numbered weights and biases of an nn.Sequential",
    )


def _check(head: Head) -> None:
    arrays = [a for layer in head.layers for a in (layer.weight_OI, layer.bias_O)]
    arrays += [a for a in (head.mean_D, head.scale_D) if a is not None]
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError(f"heads: {head.file} holds numbers that are not finite", "export the head again")
    if head.mean_D is not None and head.mean_D.shape != (head.dim,):
        raise UserError(f"heads: norm.mean of {head.file} is not as wide as its first layer", "export the head again")
    bound = 1.0
    if head.mean_D is not None and head.scale_D is not None:
        bound = (1 + _norm_of(head.mean_D)) / float(head.scale_D.min())
    for layer in head.layers:
        bound = bound * _norm_of(layer.weight_OI) + _norm_of(layer.bias_O)
    if not bound < _OVERFLOW:
        raise UserError(f"heads: the numbers of {head.file} are so large that scores overflow", "is it the right file?")


def _norm_of(array: Floats) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def scores(head: Head, vectors_ND: npt.NDArray[np.floating]) -> Floats:
    """One number a row; NaN where the vector is not finite. Vectors need not be of unit length, they are made so."""
    x: Floats = np.asarray(vectors_ND, np.float32)
    lengths_N1 = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.asarray(x / np.where(lengths_N1 == 0, 1, lengths_N1), np.float32)
    if head.mean_D is not None:
        x = np.asarray(x - head.mean_D, np.float32)
    if head.scale_D is not None:
        x = np.asarray(x / head.scale_D, np.float32)
    for layer in head.layers:
        x = _activated(x @ layer.weight_OI.T + layer.bias_O, layer.activation)
    if head.output == "softmax":
        x = np.asarray(np.exp(x - x.max(axis=1, keepdims=True)), np.float32)
        x = np.asarray(x / x.sum(axis=1, keepdims=True), np.float32)
    picked_N = x[:, head.pick]
    return _sigmoid(picked_N) if head.output == "sigmoid" else np.asarray(picked_N, np.float32)


def _activated(x: Floats, activation: Activation) -> Floats:
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "tanh":
        return np.asarray(np.tanh(x), np.float32)
    if activation == "silu":
        return x * _sigmoid(x)
    return x


def _sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), by tanh, which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


def head_values(head: Head, vectors_ND: npt.NDArray[np.floating]) -> pa.Array:
    """The scores as a column holds them: null where there is no vector."""
    found_N = scores(head, vectors_ND)
    return pa.array(found_N, pa.float32(), mask=~np.isfinite(found_N))
