"""How much a model computes per picture and per caption, from its open_clip config alone: no torch, no weights.

Two floating-point operations per multiply-add; norms, activations and biases are left out, which is under 2 %.

T tokens, W width, D dimension of the shared space, H and W pixels of the input.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of timm's towers, the plain vision transformers: name -> (width, layers, width of the MLP), as timm's
# vision_transformer.py has them. Others are not estimated.
_TIMM_VIT = {
    "small": (384, 12, 1536),
    "medium": (512, 12, 2048),
    "base": (768, 12, 3072),
    "large": (1024, 24, 4096),
    "so400m": (1152, 27, 4304),
    "giantopt": (1536, 40, 6144),
}
_TIMM_NAME = re.compile(rf"vit_({'|'.join(_TIMM_VIT)})_patch(\d+)_")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Operations of one picture, and of one caption token. `text_tokens` are computed for a caption of any length
    where attention is not causal; None where a batch is cut to its longest caption."""

    image_flops: float
    token_flops: float
    text_tokens: int | None


def model_cost(name: str) -> ModelCost | None:
    """None for a model whose config is not at hand or whose architecture is not understood."""
    config = _config(name)
    if config is None:
        return None
    text, image = config.get("text_cfg", {}), _image_flops(config["vision_cfg"], int(config["embed_dim"]))
    if image is None or "width" not in text or "hf_model_name" in text:
        return None
    width, length = int(text["width"]), int(text.get("context_length", 77))
    hidden = float(text.get("mlp_ratio", 4.0)) * width
    return ModelCost(
        image_flops=image,
        token_flops=int(text["layers"]) * _block(1, width, hidden, keys=length),
        text_tokens=length if text.get("no_causal_mask") else None,
    )


def model_dim(name: str) -> int | None:
    """Of the shared space; None where the config is not at hand."""
    config = _config(name)
    return int(config["embed_dim"]) if config is not None else None


def _config(name: str) -> Mapping[str, Any] | None:
    """open_clip's own config of a name, clipmill's own model, or a model folder."""
    bare = name.removeprefix("local-dir:")
    spec = importlib.util.find_spec("open_clip")  # finds the folder, imports nothing
    own = Path(__file__).resolve().parents[2] / "workers" / "models" / bare / "open_clip_config.json"
    places = [own, Path(bare) / "open_clip_config.json"]
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "model_configs" / f"{bare.replace('/', '-')}.json")
    for place in places:
        if place.is_file():
            found: Mapping[str, Any] = json.loads(place.read_text("utf-8"))
            return found.get("model_cfg", found)  # type: ignore[no-any-return]
    return None


def _image_flops(vision: Mapping[str, Any], dim: int) -> float | None:
    size = vision.get("image_size", 224)
    height, width_px = (size, size) if isinstance(size, int) else size
    if "timm_model_name" in vision:
        match = _TIMM_NAME.match(vision["timm_model_name"])
        if match is None:
            return None
        width, layers, hidden = _TIMM_VIT[match[1]]
        return _vit(height * width_px, int(match[2]), width, layers, hidden, dim)
    if isinstance(vision["layers"], list):
        return _resnet(height, vision["layers"], int(vision["width"]), dim)
    width = int(vision["width"])
    mlp = float(vision.get("mlp_ratio", 4.0)) * width
    return _vit(height * width_px, int(vision["patch_size"]), width, int(vision["layers"]), mlp, dim)


def _vit(pixels: int, patch: int, width: int, layers: int, hidden: float, dim: int) -> float:
    patches = pixels // patch**2
    embed = 2.0 * 3 * patch**2 * width * patches
    return embed + layers * _block(patches + 1, width, hidden, keys=patches + 1) + 2.0 * width * dim


def _block(tokens: int, width: int, hidden: float, *, keys: int) -> float:
    """A transformer block: four projections, the MLP's two, and attention of every token with `keys` others."""
    return tokens * (2.0 * 4 * width**2 + 2.0 * 2 * width * hidden + 2.0 * 2 * keys * width)


def _resnet(size: int, layers: list[int], width: int, dim: int) -> float:
    """open_clip's ModifiedResNet: a stem of three convolutions, bottlenecks, attention pooling."""
    side = size // 2
    stem = side**2 * 9 * (3 * width // 2 + (width // 2) ** 2 + width // 2 * width)
    side //= 2
    total, inside = float(stem), width
    for stage, blocks in enumerate(layers):
        planes = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            out = side // stride
            # The stride is an average pooling after the 3x3 convolution, and before the shortcut's.
            total += side**2 * (inside * planes + 9 * planes**2) + out**2 * planes * 4 * planes
            if stride > 1 or inside != 4 * planes:
                total += out**2 * inside * 4 * planes
            inside, side = 4 * planes, out
    tokens = side**2 + 1
    # open_clip computes the pooled feature of every token and takes the first.
    total += tokens * (3 * inside**2 + 2 * tokens * inside + inside * dim)
    return 2 * total
