"""Which model, how its pixels are prepared, and the fingerprint that a table carries of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model by open_clip name and pretrained tag, or by checkpoint. Nothing is loaded.

    `precision`: fp32, bf16, fp16, or auto (bf16 where the device computes it natively, else fp32).
    `preprocess` and `activation` are for a checkpoint file, which does not say them itself: mean, std, interpolation,
    resize_mode and fill_color, or `like`, a pretrained tag that has them; gelu or quickgelu.
    """

    name: str
    pretrained: str | None = None
    precision: str = "auto"
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The model's own image preprocessing, from its open_clip config.

    `size_HW` in pixels. `resize_mode` is open_clip's: shortest | longest | squash. `mean` and `std` are of
    RGB in 0..1. `fill_color` is what `longest` pads with, 0..255.
    """

    size_HW: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Identity (must match or a write is refused) and provenance (recorded; may differ if the self-check passes)."""

    model: str
    pretrained: str
    weights_sha256: str
    preprocess: Preprocess
    tokenizer: str  # class and sizes, hashed where it has files
    dim: int
    normalized: bool = True
    exif: str = "applied"
    alpha: str = "white"
    logit_scale: float = 100.0  # already exponentiated
    logit_bias: float | None = None  # SigLIP's; None means softmax over labels
    # Precision, device, versions; what said how pictures are prepared (`preprocess_from`); a file's `activation`.
    provenance: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Fingerprint":
        raw = json.loads(text)
        pre = raw.pop("preprocess")
        for name in ("size_HW", "mean", "std"):
            pre[name] = tuple(pre[name])
        return Fingerprint(preprocess=Preprocess(**pre), **raw)

    def spec(self, precision: str = "auto") -> ModelSpec:
        """Loads the model that made these vectors, with the preprocessing they were made with."""
        pretrained = self.pretrained or None
        if pretrained is None or not PurePath(pretrained).is_absolute():
            return ModelSpec(name=self.model, pretrained=pretrained, precision=precision)
        values = {key: value for key, value in asdict(self.preprocess).items() if key != "size_HW"}
        # Tables from before the activation was recorded were computed as the architecture's name says.
        by_name = "quickgelu" if self.model.endswith("-quickgelu") else "gelu"
        return ModelSpec(
            name=self.model,
            pretrained=pretrained,
            precision=precision,
            preprocess=values,
            activation=self.provenance.get("activation", by_name),
        )

    def identity(self) -> dict[str, object]:
        """What must be equal for two sets of vectors to live in one column.

        The weights' hash stands for the model; its name and path may differ between machines.
        """
        raw = asdict(self)
        for name in ("provenance", "model", "pretrained"):
            raw.pop(name)
        return json.loads(json.dumps(raw))  # type: ignore[no-any-return]

    def differences(self, other: "Fingerprint") -> list[str]:
        """`field: mine != theirs` for every identity field that differs; empty when they may mix."""
        mine, theirs = self.identity(), other.identity()
        return [f"{k}: {mine[k]} != {theirs[k]}" for k in mine if mine[k] != theirs[k]]
