"""One architecture of open_clip through clipmill's default road, beside reference open_clip; in a process of its own.

    python -m benchmarks.model_trial NAME PHOTO ... < /dev/null      # one line of JSON on stdout

No weights can be had without a network, so they are random, but such that a mistake shows: matrices keep the size of
their signal, layer scales and zeros that switch branches off are switched on, BatchNorm is calibrated on the photos.
What is compared is cosines of vectors, and cosines after the mean over all photos is taken off (`centred`): a random
tower gives all photos nearly one vector, which would hide a wrong channel behind a cosine of 0.99.

N photos or texts, B batch, C = 3 channels, H and W pixels of the model's input, D dimension.
"""

import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import selfcheck
from clipmill.workers.load import load_engine

MAX_BYTES = 12 << 30  # of data in this process
OWN_VOCABULARY = 49408  # of open_clip's own tokenizer
TEXTS = (
    *selfcheck.TEXTS,
    "two dogs on a beach",
    "a long striped cotton shirt, folded, on a wooden table beside a lamp",
    "night",
    "42",
)


def configuration(name: str) -> tuple[dict[str, Any], str]:
    """open_clip_config.json of an architecture, and what was changed in it so that it needs no network."""
    model_cfg: dict[str, Any] = json.loads(json.dumps(open_clip.get_model_config(name)))
    text, changed = model_cfg["text_cfg"], ""
    if wanted := text.pop("hf_tokenizer_name", None):
        text.pop("tokenizer_kwargs", None)
        text["vocab_size"] = OWN_VOCABULARY
        if "eos_id" in text:
            text["eos_id"] = OWN_VOCABULARY - 1
        changed = f"open_clip's own tokenizer in the place of {wanted}"
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = (open_clip.pretrained.get_pretrained_cfg(name, tags[0]) if tags else None) or {}
    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
    return {"model_cfg": model_cfg, "preprocess_cfg": {key: known[key] for key in keys if key in known}}, changed


def sensitive(model: nn.Module, seed: int = 1) -> None:
    """Random weights under which every branch of the model matters."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1:
                continue  # the logit scale
            first = float(parameter.flatten()[0])
            if not bool((parameter == first).all()):
                if parameter.ndim > 1:
                    parameter.copy_(noise(parameter) / parameter[0].numel() ** 0.5)
            elif first == 0:
                parameter.copy_(0.1 * noise(parameter))
            else:  # a norm's weight, or a layer scale that starts at 0.00001
                parameter.copy_((first if abs(first) > 0.05 else 0.5) * (1 + 0.2 * noise(parameter)))


def calibrate(model: nn.Module, pixels_BCHW: Tensor) -> None:
    """Let every BatchNorm of the image tower know the photos' means and variances."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = None  # a plain average
        norm.reset_running_stats()
        norm.train()
    if norms:
        with torch.no_grad():
            model.visual(pixels_BCHW)  # type: ignore[operator]
    model.eval()


def transformed(transform: Any, photos: list[bytes]) -> Tensor:
    return torch.stack([transform(selfcheck.reference_rgb(photo)) for photo in photos])


def make(folder: Path, name: str, photos: list[bytes]) -> tuple[str, float]:
    """A checkpoint folder of the architecture; what was changed, and its parameters in millions."""
    config, changed = configuration(name)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", load_weights=False, pretrained_text=False
    )
    sensitive(model.eval())
    calibrate(model, transformed(transform, photos))
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return changed, sum(parameter.numel() for parameter in model.parameters()) / 1e6


def reference(folder: Path, photos: list[bytes]) -> selfcheck.Reference:
    """As a user of open_clip does it, fp32."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", weights_only=True)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
    model.eval()
    with torch.inference_mode():
        images = [model.encode_image(pixels[None], normalize=True) for pixels in transformed(transform, photos)]
        return selfcheck.Reference(
            images_ND=torch.cat(images).numpy(), texts_ND=model.encode_text(tokens, normalize=True).numpy()
        )


def cosines(expected_ND: Any, got_ND: Any) -> dict[str, float]:
    """Least cosine, plain and with the mean of the expected ones taken off; the mean cosine of two different ones."""
    mean_D = expected_ND.mean(axis=0)
    plain = (expected_ND * got_ND).sum(axis=1)
    a_ND, b_ND = expected_ND - mean_D, got_ND - mean_D
    lengths = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    pairs = expected_ND @ expected_ND.T
    count = len(expected_ND)
    return {
        "cosine": round(float(plain.min()), 6),
        "centred": round(float(((a_ND * b_ND).sum(axis=1) / lengths).min()), 5),
        "others": round(float((pairs.sum() - np.trace(pairs)) / (count * (count - 1))), 4),
    }


def trial(name: str, photos: list[bytes], threads: int) -> dict[str, Any]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        changed, millions = make(folder, name, photos)
        expected = reference(folder, photos)
        engine = load_engine(ModelSpec(name=str(folder)), device="cpu", threads=threads)
        prepared_NCHW = np.stack([engine.prepare(photo, Limits()).pixels_CHW for photo in photos])
        got = selfcheck.Reference(
            images_ND=engine.encode_images(prepared_NCHW), texts_ND=engine.encode_texts(list(TEXTS))
        )
    provenance = engine.fingerprint.provenance
    return {
        "name": name,
        "millions": round(millions, 1),
        "changed": changed,
        "precision": provenance["precision"],
        "note": provenance.get("precision_note", ""),
        "images": cosines(expected.images_ND, got.images_ND),
        "texts": cosines(expected.texts_ND, got.texts_ND),
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    threads = torch.get_num_threads()
    photos = [Path(path).read_bytes() for path in arguments[1:]]
    json.dump(trial(arguments[0], photos, threads), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
