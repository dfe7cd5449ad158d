"""Families of open_clip that are built otherwise: two convolutions at the pixels, tokens beside the features."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.model_trial import TEXTS, calibrate, cosines, reference, sensitive
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import build as clip_build
from clipmill.workers.clip import fold as clip_fold
from clipmill.workers.clip import ready as clip_ready
from clipmill.workers.clip.load import load_clip
from clipmill.workers.load import load_engine
from tests.models import encoded, picture

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    # As MobileCLIP-S0: a stem of parallel convolutions, layer scales.
    "fastvit": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "fastvit_t8",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "image_size": 64,
        },
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**_TEXT, "context_length": 76, "attn_pooler_heads": 2},
    },
}
CONFIGS["fastvit"]["embed_dim"] = 768  # of its last layer: there is no projection


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS[request.param]}))
    logging.disable(logging.CRITICAL)
    torch.manual_seed(3)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}", load_weights=False)
    logging.disable(logging.NOTSET)
    sensitive(model.eval())
    calibrate(model, torch.stack([transform(_pil(seed)) for seed in range(8)]))
    save_file({name: value.clone() for name, value in model.state_dict().items()}, path / "model.safetensors")
    return path


def _pil(seed: int) -> Any:
    from PIL import Image

    return Image.fromarray(picture(seed))


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_it_gives_what_reference_open_clip_gives(folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_build, "native_bf16", lambda _: True)
    photos = [encoded(picture(seed), "PNG") for seed in range(8)]
    expected = reference(folder, photos)
    engine = load_engine(ModelSpec(name=str(folder), precision=precision), device="cpu", threads=1)
    pixels = np.stack([engine.prepare(photo, Limits()).pixels_CHW for photo in photos])
    images = cosines(expected.images_ND, engine.encode_images(pixels))
    texts = cosines(expected.texts_ND, engine.encode_texts(list(TEXTS)))
    floor = 0.999 if precision != "bf16" else 0.995  # untrained weights amplify rounding; auto knows it
    assert images["others"] < 0.97, "the photographs must differ, or nothing is compared"
    assert images["cosine"] > floor
    assert images["centred"] > 0.98
    assert texts["cosine"] > 0.999


def test_every_convolution_at_the_pixels_is_found(folder: Path) -> None:
    loaded = load_clip(ModelSpec(name=str(folder)))
    convs = clip_fold.pixel_convs(loaded.model.visual, loaded.preprocess)
    assert len(convs) == (2 if "fastvit" in folder.name else 1)
    assert all(conv.in_channels == 3 for conv in convs.values())


def test_pixels_that_another_layer_takes_too_are_left_alone() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            return (self.conv(pixels_BCHW) + self.norm(pixels_BCHW)).flatten(1)

    how = clip_fold.Preprocess(size_HW=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert clip_fold.pixel_convs(Beside().eval(), how) == {}


def test_a_road_that_raises_gives_way_to_fp32_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_build, "native_bf16", lambda _: True)

    def broken(*_: object) -> bool:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(clip_ready, "fold_normalisation", broken)
    engine: Any = load_engine(ModelSpec(name=str(folder)), device="cpu", threads=1)
    provenance = engine.fingerprint.provenance
    assert provenance["precision"] == "fp32"
    assert "does not run in bf16 (RuntimeError: mat1 and mat2" in provenance["precision_note"]
    assert engine.self_check(None)["min_cosine"] > 0.99999
    with pytest.raises(UserError, match="does not run in bf16") as caught:
        load_engine(ModelSpec(name=str(folder), precision="bf16"), device="cpu", threads=1)
    assert "precision: auto" in caught.value.hint
