"""One checkpoint file for every tool: open_clip's model with random weights, made sensitive.

A random model gives every picture nearly the same vector, and then any two tools agree. So most of the mean feature is
taken off the last bias of each tower: what is left tells pictures apart, and a wrong pixel shows.
"""

from pathlib import Path
from typing import Any

CENTRED = 0.7  # how much of the mean feature goes; more would amplify rounding beyond that of trained models
SEED = 20261121


def make_checkpoint(path: Path, model_name: str, jpegs: list[bytes], captions: list[str]) -> Path:
    """Save a state dict to `path`; done once. `jpegs` and `captions` are what the mean is taken over."""
    if path.exists():
        return path
    import io

    import open_clip
    import torch
    from PIL import Image

    torch.manual_seed(SEED)
    model, _, preprocess = open_clip.create_model_and_transforms(model_name)
    model.eval()
    with torch.no_grad():
        pixels_BCHW = torch.stack([preprocess(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
        tokens_BL = open_clip.get_tokenizer(model_name)(captions)
        _centre(model.visual.ln_post, model.visual.proj, model.encode_image(pixels_BCHW))
        _centre(model.ln_final, model.text_projection, model.encode_text(tokens_BL))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return path


def _centre(norm: Any, projection_WD: Any, features_BD: Any) -> None:
    """features = norm(x) @ projection: solve for the bias that moves their mean."""
    import torch

    norm.bias -= CENTRED * torch.linalg.lstsq(projection_WD.T, features_BD.mean(0)).solution
