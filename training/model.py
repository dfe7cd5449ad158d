"""The shape of clipmill-tiny, and how it is written to a folder that open_clip loads by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from training.data import CONTEXT_LENGTH, IMAGE_PX

WORDS = "token_embedding.weight"
# 9.6 million parameters, 19 MB in fp16. Half of the bytes are the word table of open_clip's own tokenizer, which is
# why the text tower is narrow: one more column of it costs 0.1 MB.
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": IMAGE_PX, "layers": [1, 1, 1, 1], "width": 32, "head_width": 64, "patch_size": None},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 80, "heads": 4, "layers": 3},
}
# open_clip's default mean and std, so that forgetting to normalise is as wrong here as with any other checkpoint.
PREPROCESS_CFG: dict[str, Any] = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def new_model(words: Tensor) -> CLIP:
    """Untrained weights from torch's current seed, with a word table of the given tokens (sorted) only.

    Training meets some 120 of the tokenizer's 49,408 tokens; moving gradients of the others about costs a tenth of
    a step. ``save`` puts the table back to its full height.
    """
    model = CLIP(**MODEL_CFG)
    model.token_embedding = torch.nn.Embedding.from_pretrained(model.token_embedding.weight[words], freeze=False)
    return model


def encode_text(model: CLIP, tokens_BL: Tensor) -> Tensor:
    """Unit text vectors (B, D), equal to ``model.encode_text(tokens, normalize=True)`` but for rounding.

    The tower is causal, so nothing after the end token (the highest number in a row) matters: cutting the batch at
    its longest text halves the work.
    """
    end_B = tokens_BL.argmax(dim=-1)
    length = int(end_B.max()) + 1
    hidden = model.token_embedding(tokens_BL[:, :length]) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled_BW = hidden[torch.arange(len(tokens_BL)), end_B]
    return F.normalize(pooled_BW @ model.text_projection, dim=-1)


def save(model: CLIP, words: Tensor, folder: Path, *, step: int, seconds: float) -> None:
    """Config and fp16 weights, published by rename so that a reader never sees half a file.

    A token that training never met gets zeros: a word that the model does not know says nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(said, indent=2) + "\n")
    state = dict(model.state_dict())
    table = torch.zeros(MODEL_CFG["text_cfg"]["vocab_size"], MODEL_CFG["text_cfg"]["width"])
    table[words] = state[WORDS]
    state[WORDS] = table
    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    half_done = folder / "model.safetensors.tmp"
    save_file(half, half_done, metadata={"format": "pt", "step": str(step), "seconds": str(seconds)})
    half_done.chmod(0o644)  # safetensors writes for its owner only; this file is shipped
    half_done.rename(folder / "model.safetensors")


def resume(model: CLIP, words: Tensor, folder: Path) -> tuple[int, float]:
    """Take up the weights of ``save``: (step, seconds) so far; (0, 0.0) where there are none."""
    path = folder / "model.safetensors"
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        said = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    state[WORDS] = state[WORDS][words]
    model.load_state_dict(state)
    return int(said["step"]), float(said["seconds"])
