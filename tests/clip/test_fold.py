"""What is computed into the weights leaves the features as they were."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import fold as clip_fold
from clipmill.workers.clip.fold import fold_quick_gelu
from clipmill.workers.clip.pack import PackedLinear
from clipmill.workers.load import load_engine
from tests.models import config, picture, save_checkpoint


def quick_model(**changed: Any) -> Any:
    torch.manual_seed(0)
    cfg = config("vit")["model_cfg"]
    cfg["vision_cfg"].update(changed)
    model = open_clip.CLIP(**cfg, quick_gelu=True).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start at zero, where a forgotten factor would not be seen
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def test_quick_gelu_becomes_silu_and_computes_the_same() -> None:
    model = quick_model()
    pixels_BCHW, tokens_BL = torch.randn(3, 3, 64, 64), torch.randint(1, 1000, (3, 32))
    images_BD, texts_BD = model.encode_image(pixels_BCHW), model.encode_text(tokens_BL)
    assert fold_quick_gelu(model) == 4, "two blocks in each tower"
    assert not any(isinstance(module, QuickGELU) for module in model.modules())
    torch.testing.assert_close(model.encode_image(pixels_BCHW), images_BD)
    torch.testing.assert_close(model.encode_text(tokens_BL), texts_BD)


def test_other_activations_stay() -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**config("vit")["model_cfg"])
    assert fold_quick_gelu(model) == 0
    assert any(isinstance(module, nn.GELU) for module in model.modules())


def test_a_wrong_factor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_fold, "_QUICK", 1.0)
    with pytest.raises(AssertionError, match="changed the features"):
        fold_quick_gelu(quick_model())


def reference_vectors(folder: Path, pixels_BCHW: npt.NDArray[np.uint8]) -> Tensor:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    mean, std = (torch.tensor(config("vit")["preprocess_cfg"][key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        normal_BCHW = (torch.from_numpy(pixels_BCHW).float() / 255 - mean) / std
        return cast(Tensor, model.eval().encode_image(normal_BCHW, normalize=True))


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 0.99999), ("bf16", 0.999)])
def test_a_model_with_quick_gelu_keeps_its_vectors(tmp_path: Path, precision: str, floor: float) -> None:
    folder = save_checkpoint(tmp_path / "quick", "vit")
    cfg = config("vit")
    cfg["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(cfg))
    pixels_BCHW = np.stack([picture(seed, 64, 64).transpose(2, 0, 1) for seed in range(16)])
    expected_BD = reference_vectors(folder, pixels_BCHW)
    engine: Any = load_engine(ModelSpec(name=str(folder), precision=precision), device="cpu", threads=1)
    assert float((torch.from_numpy(engine.encode_images(pixels_BCHW)) * expected_BD).sum(1).min()) > floor
    layers = [m for m in engine._parts.image_tower.visual.modules() if isinstance(m, PackedLinear)]
    assert bool(layers) == any(layer._after[0] == "swish" for layer in layers), "not computed within the layer"
