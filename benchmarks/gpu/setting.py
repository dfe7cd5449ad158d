"""Where a step runs, with which sizes and models. Everything is drawn here: no network, no pictures, no checkpoints.

Models are open_clip's with random weights, which changes no speed, each in a folder of its own: written once, because
drawing 400 million random numbers at every load would take a minute of the eight. A SigLIP has open_clip's own
tokenizer beside it; SigLIP's needs a file from the network.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = "clipmill-tiny"
SMALL_VIT = "small ViT"  # in the place of every model where only the code is tried
SEED = 20261128


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. `seconds` for a rate through the whole road, `round_s` for one of a tower alone."""

    matmul: int = 8192
    shards: int = 24  # tars of 256 px pictures
    per_shard: int = 1000
    large_shards: int = 16
    large_px: int = 1920  # the shorter side of their pictures
    per_large_shard: int = 16
    seconds: float = 12.0
    round_s: float = 0.6
    rounds: int = 3
    parity_pictures: int = 32
    batch_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    batch: int = 256
    index_partitions: tuple[int, ...] = (1000, 2000)
    index_rows: int = 250_000
    index_dim: int = 512


SMALL = Sizes(
    matmul=64,
    shards=4,
    per_shard=8,
    large_shards=1,
    large_px=480,
    per_large_shard=2,
    seconds=0.1,
    round_s=0.02,
    rounds=1,
    parity_pictures=4,
    batch_sizes=(4,),
    batch=4,
    index_partitions=(16,),
    index_rows=2000,
    index_dim=32,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`device`: cuda, cuda:N or cpu. `small`: sizes at which every step runs in seconds and no figure means anything,
    with a small model in the place of every other, and the stub where Ray's workers would load it."""

    device: str
    folder: Path
    threads: int
    small: bool = False

    @property
    def sizes(self) -> Sizes:
        return SMALL if self.small else Sizes()

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def tars(self) -> Path:
        return self.folder / "shards-256px"

    @property
    def large_tars(self) -> Path:
        return self.folder / "shards-1920px"

    def model(self, name: str) -> dict[str, Any]:
        """The `model` of a job file, made where it is missing; in bf16: `auto` may take fp32 for random weights."""
        name = SMALL_VIT if self.small and name != TINY else name
        return {"name": name if name == TINY else str(model_folder(self.folder / "models", name)), "precision": "bf16"}


def _siglip(tower: str, dim: int, text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": dim,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": tower,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {"vocab_size": 49408, **text},
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def _plain(vision: dict[str, Any], text: dict[str, Any], dim: int) -> dict[str, Any]:
    return {
        "model_cfg": {"embed_dim": dim, "vision_cfg": vision, "text_cfg": {"vocab_size": 49408, **text}},
        "preprocess_cfg": _CLIP_PREPROCESS,
    }


_CLIP_PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_SIGLIP_TEXT = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
OURS = {
    "SigLIP-B-16": _siglip(
        "vit_base_patch16_siglip_224",
        768,
        {"context_length": 64, "width": 768, "heads": 12, "layers": 12} | _SIGLIP_TEXT,
    ),
    # Its pictures are what costs; the text tower is small.
    "SO400M": _siglip(
        "vit_so400m_patch14_siglip_224", 1152, {"context_length": 32, "width": 64, "heads": 2, "layers": 1}
    ),
    SMALL_VIT: _plain(
        {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 3},
        {"context_length": 77, "width": 64, "heads": 2, "layers": 2},
        32,
    ),
}


def model_folder(home: Path, name: str) -> Path:
    """A local model folder of this name with random weights; made once."""
    folder = home / name
    weights = folder / "model.safetensors"
    if weights.exists():
        return folder
    import open_clip
    import torch
    from safetensors.torch import save_file

    ours = OURS.get(name)
    config = ours or {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": _CLIP_PREPROCESS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    settings = dict(config["model_cfg"])
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        state = kind(**settings).state_dict()
    unfinished = folder / "unfinished"
    save_file({key: value.contiguous() for key, value in state.items()}, unfinished)
    unfinished.rename(weights)
    return folder
