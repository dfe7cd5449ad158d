"""Heads: small models on top of stored vectors, each a column of one number a row.

The job file's section names files; what is read from them is a `Head`, plain arrays that travel to the workers.
D: dimension of the vectors. I, O: inputs and outputs of a layer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from clipmill.schemas.job.strict import Strict
from clipmill.schemas.model import Fingerprint

Floats = npt.NDArray[np.float32]
Activation = Literal["none", "relu", "silu", "tanh"]
Output = Literal["none", "sigmoid", "softmax"]
MAX_HEADS = 32


class HeadFile(Strict):
    """A head of the job file. `trained_on`: `MODEL,TAG` of the vectors it was trained on, where the file does not say
    it. `activation` between the layers, `output` of the last one and which `class` of several: where the file does not
    say that and is none of LAION's, which are known by their layers."""

    file: str = Field(min_length=1)
    trained_on: str | None = None
    activation: Activation | None = None
    output: Output | None = None
    pick: Annotated[int, Field(ge=0, lt=1000)] | None = Field(default=None, alias="class")


def as_file(value: Any) -> Any:
    """`aesthetic: FILE` is short for `aesthetic: {file: FILE}`."""
    return {"file": value} if isinstance(value, str) else value


Heads = dict[str, Annotated[HeadFile, BeforeValidator(as_file)]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """x -> activation(weight_OI @ x + bias_O)."""

    weight_OI: Floats
    bias_O: Floats
    activation: Activation = "none"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Maps a unit vector to one number. `mean_D` and `scale_D`: taken off and divided by first, where there are any.

    `model`, `pretrained` and `weights_sha256` say on whose vectors it was trained; each is empty where nobody says it.
    `given`: what loads it again, as the job file would say it, the file by its whole name.
    """

    name: str
    file: str
    layers: tuple[Layer, ...]
    mean_D: Floats | None = None
    scale_D: Floats | None = None
    output: Output = "none"
    pick: int = 0
    model: str = ""
    pretrained: str = ""
    weights_sha256: str = ""
    given: dict[str, Any] | None = None

    @property
    def dim(self) -> int:
        return int(self.layers[0].weight_OI.shape[1])

    @property
    def says_its_model(self) -> bool:
        return bool(self.model or self.weights_sha256)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over everything that changes a score: the same numbers in another kind of file have it too."""
        digest = hashlib.sha256(json.dumps([self.output, self.pick]).encode())
        for array in (self.mean_D, self.scale_D):
            digest.update(b"-" if array is None else array.tobytes())
        for layer in self.layers:
            digest.update(json.dumps([list(layer.weight_OI.shape), layer.activation]).encode())
            digest.update(layer.weight_OI.tobytes() + layer.bias_O.tobytes())
        return digest.hexdigest()[:16]

    def about(self, fingerprint: Fingerprint, vector: str = "vector") -> dict[str, Any]:
        """What its column's metadata says: which head, on the vectors of which model."""
        return {
            **({"given": self.given} if self.given else {}),
            "hash": self.hash,
            "file": self.file.rpartition("/")[2],
            "vector": vector,
            "output": self.output,
            "model": fingerprint.model,
            "pretrained": fingerprint.pretrained,
            "weights_sha256": fingerprint.weights_sha256,
        }

    def about_json(self, fingerprint: Fingerprint, vector: str = "vector") -> str:
        return json.dumps(self.about(fingerprint, vector), sort_keys=True)


def model_words(model: str, pretrained: str) -> str:
    return ",".join(part for part in (model, pretrained) if part)


def same_model(text: str, model: str, pretrained: str) -> bool:
    """Whether `MODEL,TAG` is this model: `/` in an architecture's name is `-`, a file is known by its name without its
    folder, and the spelling with -quickgelu computes the same for the weights that need it."""
    name, _, tag = text.partition(",")
    return _plain(name, tag) == _plain(model, pretrained)


def _plain(model: str, pretrained: str) -> Sequence[str]:
    name = model.strip()
    name = name if ":" in name or name.startswith("/") else name.replace("/", "-").removesuffix("-quickgelu")
    return (name, pretrained.strip().rpartition("/")[2])
