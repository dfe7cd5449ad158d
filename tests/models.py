"""Small open_clip checkpoints for tests, and pictures to feed them.

Random models forgive: every picture gets nearly the same vector, so swapped channels pass any threshold. These are
made sensitive: BatchNorm is calibrated on pictures, and most of the mean of the features is taken off the last bias.
"""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

FAMILIES = ("vit", "resnet", "siglip")
# How much of the mean feature is taken away: more would amplify the rounding of bf16 beyond that of trained models.
CENTRED = 0.7

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
            "text_cfg": _TEXT,
        },
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"},
    },
    "resnet": {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
            "text_cfg": _TEXT,
        },
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bilinear"},
    },
    "siglip": {
        # As open_clip's ViT-B-16-SigLIP.json, with timm's smallest attention-pooled ViT and open_clip's own tokenizer.
        "model_cfg": {
            "embed_dim": 96,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 160,
                "timm_model_name": "test_vit3",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **_TEXT,
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    },
}


def config(family: str) -> dict[str, Any]:
    """A fresh copy of a family's open_clip_config.json."""
    copied: dict[str, Any] = json.loads(json.dumps(_CONFIGS[family]))
    return copied


def picture(seed: int, width: int = 96, height: int = 80) -> npt.NDArray[np.uint8]:
    """(H, W, 3): a colour gradient with boxes, unlike its mirror image and its channels unlike each other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(-1, 1, (3, 2))
    grey = rng.uniform(60, 190, 3)
    drawn = grey + 60 * (slopes[:, 0] * (x / width)[..., None] + slopes[:, 1] * (y / height)[..., None])
    for _ in range(5):
        left, top = rng.integers(0, width), rng.integers(0, height)
        drawn[top : top + height // 3, left : left + width // 3] = rng.uniform(0, 255, 3)
    clipped: npt.NDArray[np.uint8] = np.clip(drawn, 0, 255).astype(np.uint8)
    return clipped


def encoded(pixels_HWC: npt.NDArray[np.uint8], kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, kind, **options)
    return out.getvalue()


@cache
def state_dict(family: str) -> dict[str, Tensor]:
    """Weights of a sensitive random model."""
    torch.manual_seed(FAMILIES.index(family))
    cfg = config(family)
    cfg["model_cfg"].pop("custom_text", None)
    model_class = open_clip.CustomTextCLIP if family == "siglip" else open_clip.CLIP
    model: Any = model_class(**cfg["model_cfg"])
    size = cfg["model_cfg"]["vision_cfg"]["image_size"]
    mean, std = (torch.tensor(cfg["preprocess_cfg"][key])[:, None, None] for key in ("mean", "std"))
    pixels = np.stack([picture(seed, size, size) for seed in range(48)]).transpose(0, 3, 1, 2)
    pixels_BCHW = (torch.from_numpy(pixels).float() / 255 - mean) / std
    with torch.no_grad():
        _calibrate_batchnorm(model, pixels_BCHW)
        _centre(model, model.visual(pixels_BCHW), family)
    return {name: value.clone() for name, value in model.state_dict().items()}


def save_checkpoint(folder: Path, family: str, weights: dict[str, Tensor] | None = None) -> Path:
    """A model folder: open_clip_config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config(family)))
    save_file(weights or state_dict(family), folder / "model.safetensors")
    return folder


def _calibrate_batchnorm(model: nn.Module, pixels_BCHW: Tensor) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment] - a plain average over all batches
            nn.init.normal_(module.weight, 0.6, 0.1)  # bn3 starts at zero, which switches its branch off
    model.train()
    model.visual(pixels_BCHW)  # type: ignore[operator]
    model.eval()


def _centre(model: Any, features_BD: Tensor, family: str) -> None:
    if family == "vit":
        visual = model.visual
        # features = ln_post(x) @ proj; solve for the bias that moves their mean.
        visual.ln_post.bias -= CENTRED * torch.linalg.lstsq(visual.proj.T, features_BD.mean(0)).solution
    elif family == "resnet":
        model.visual.attnpool.c_proj.bias -= CENTRED * features_BD.mean(0)
    else:
        model.visual.trunk.attn_pool.mlp.fc2.bias -= CENTRED * features_BD.mean(0)
