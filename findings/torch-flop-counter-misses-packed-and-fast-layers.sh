#!/usr/bin/env bash
# torch: FlopCounterMode counts nothing for the layers that a CPU is fast with.
#
# One would guess: the counter sees every matrix product of a model, whichever kernel computes it, so operations a second
#   can be had for any model as it is served.
# What happens: a linear layer whose weight was packed for oneDNN (`torch.ops.mkldnn._linear_pointwise`, which torch.compile
#   and hand-packed models use) counts 0, and so does a whole nn.TransformerEncoderLayer in inference, whose fast path is one
#   operator that the counter has no formula for. The numbers it gives for the same layers unpacked and in training mode are
#   right. Nothing warns: a packed model seems to need a fraction of the operations, and its share of the peak is a fiction.
# Why it matters: estimates of hours and of a processor's use that are divided by such a count are off by whatever share of
#   the model it left out. Give `custom_mapping` a formula for each such operator, and turn the fast path off while counting
#   (`torch.backends.mha.set_fastpath_enabled(False)`).
# Versions: torch 2.15.0 (CPU), numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

ROWS, WIDTH = 64, 256
TRUE_LINEAR = 2 * ROWS * WIDTH * WIDTH


def counted(compute):
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


rows = torch.randn(ROWS, WIDTH)
weight = torch.randn(WIDTH, WIDTH)
packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
linear = counted(lambda: torch.nn.functional.linear(rows, weight))
by_onednn = counted(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))

layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True).eval()
tokens = torch.randn(1, ROWS, WIDTH)
fast = counted(lambda: layer(tokens))
torch.backends.mha.set_fastpath_enabled(False)
slow = counted(lambda: layer(tokens))

print(f"a linear layer, {TRUE_LINEAR:,} operations: counted {linear:,} plain, {by_onednn:,} packed")
print(f"a transformer's layer: counted {slow:,} without the fast path, {fast:,} with it")
sys.exit(linear != TRUE_LINEAR or by_onednn != 0 or slow < 12 * TRUE_LINEAR or fast * 2 > slow)
PY
