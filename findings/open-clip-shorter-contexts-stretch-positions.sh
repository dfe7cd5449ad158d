#!/usr/bin/env bash
# open_clip: a shorter context does not cut a checkpoint's positions, it squeezes them all into what is left.
#
# One would guess: `force_context_length=32` of a model trained with 77 is a cheaper text tower: captions of up to 32 tokens
#   keep their vectors, since attention is causal and what follows the end token counts for nothing. Longer ones are cut.
# What happens: when the checkpoint is loaded, the 77 learned positions are interpolated to 32, as those of an image tower are
#   when its resolution changes: the tenth token gets what lies between positions 23 and 24. Every caption, of two words too,
#   has another vector, and nothing is said above level INFO. Cutting the same tensor to its first 32 rows gives the
#   vectors of the full model. A longer context (`force_context_length=128`) pulls the positions apart in the same way.
# Why it matters: text vectors of such a model do not fit the stored ones of the full model, though both name one checkpoint,
#   and searches get worse without an error. The tokens are the same, so that comparing those finds nothing.
# Versions: open_clip_torch 3.3.0, torch 2.15.0, torchvision 0.29.2, numpy 2.4.6, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check open_clip_torch==3.3.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY' 2> log.txt
import json
import sys
from pathlib import Path

import open_clip
import torch

NAME, FULL = "tiny-of-our-own", 77
tower = {"width": 64, "layers": 2}
config = {
    "embed_dim": 32,
    "vision_cfg": tower | {"image_size": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": tower | {"context_length": FULL, "vocab_size": 49408, "heads": 4},
}
Path("configs").mkdir()
Path(f"configs/{NAME}.json").write_text(json.dumps(config))
open_clip.add_model_config(Path("configs"))
captions = ["two dogs", "a red boat on a lake", "a very old house beside a tree in the snow"]


def vectors(model, length):
    tokens = open_clip.get_tokenizer(NAME, context_length=length)(captions)
    with torch.inference_mode():
        return tokens, model.eval().encode_text(tokens, normalize=True)


torch.manual_seed(0)
full = open_clip.create_model(NAME)
torch.save(full.state_dict(), "full.pt")
tokens, wanted = vectors(full, FULL)
seen = {}
for length in (FULL, 32, 128):
    model = open_clip.create_model(NAME, pretrained="full.pt", force_context_length=length)
    others, found = vectors(model, length)
    shorter = min(length, FULL)
    assert torch.equal(others[:, :shorter], tokens[:, :shorter])
    seen[length] = (found * wanted).sum(1).tolist()
    rounded = [round(one, 3) for one in seen[length]]
    print(f"context of {length}, the same tokens: cosines to the full model's vectors {rounded}")
    if length == 32:
        between = torch.lerp(full.positional_embedding[22], full.positional_embedding[23], 9.5 * FULL / 32 - 0.5 - 22)
        assert torch.allclose(model.positional_embedding[9], between, atol=1e-6)

cut = open_clip.create_model(NAME, force_context_length=32)
weights = torch.load("full.pt")
cut.load_state_dict(weights | {"positional_embedding": weights["positional_embedding"][:32]}, strict=False)
seen["cut"] = (vectors(cut, 32)[1] * wanted).sum(1).tolist()
print(f"positions cut to 32 by hand: {[round(one, 3) for one in seen['cut']]}")
same = min(seen["cut"] + seen[FULL])
sys.exit(0 if same > 0.9999 and max(seen[32] + seen[128]) < 0.99 else "positions are resized otherwise now")
PY
