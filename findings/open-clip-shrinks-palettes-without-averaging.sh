#!/usr/bin/env bash
# open_clip: the same pixels give another input where the file has a palette, for pictures are shrunk before they become RGB.
#
# One would guess: `preprocess(Image.open(file))` is bicubic with antialiasing for every file, as the transform prints itself; a
#   GIF or an 8-bit PNG is turned into RGB first, or it makes no difference when.
# What happens: the transform resizes what Pillow opened and converts to RGB after it. Pillow cannot average numbers of a
#   palette and takes the nearest pixel, whatever filter was named, without a word; 1-bit pictures alike. Fine stripes of black
#   and white that are grey as RGB come out black or white; every picture gets jagged edges. Transparent pictures (RGBA) lose the
#   colour of what is hidden, which becomes black as it is shrunk and stays in `convert("RGB")`. Training with open_clip's own
#   loader converts first (`decode("pilrgb")`), so a model has not seen such pictures.
# Why it matters: GIFs and small PNGs of the web (screenshots, logos, charts) get vectors of a damaged picture, and a copy of
#   one as JPEG is no longer its near duplicate. Give the transform `image.convert("RGB")`, alpha put on white before.
# Versions: open_clip_torch 3.3.0, torch 2.15.0 (CPU), torchvision 0.29.2, Pillow 13.0.0, numpy 2.4.6, Python 3.11.
#   Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check open_clip_torch==3.3.0 torch==2.15.0 torchvision==0.29.2 \
  pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import io
import sys

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

SIDE = 512
y_HW, x_HW = np.mgrid[:SIDE, :SIDE]
stripes_HW = ((x_HW + y_HW) % 2 * 255).astype(np.uint8)
rings_HW = (np.hypot(x_HW - 250, y_HW - 240) % 3 // 1.5 * 120 + x_HW / SIDE * 100).astype(np.uint8)


def opened(picture, form):
    file = io.BytesIO()
    picture.save(file, form)
    return Image.open(io.BytesIO(file.getvalue()))


def grey(values_HW):
    return Image.fromarray(np.dstack([values_HW] * 3))


def compared(name, picture):
    """Least and greatest value of the input tensor as the file was opened and as RGB; how far apart the two are."""
    given, first = preprocess(picture), preprocess(picture.convert("RGB"))
    apart = float((given - first).abs().mean())
    ends = [round(float(end), 2) for tensor in (given, first) for end in (tensor.min(), tensor.max())]
    print(f"{mode}, {name} (mode {picture.mode}): {ends[:2]}, as RGB {ends[2:]}; mean difference {apart:.3f}")
    return ends, apart


ok = True
for mode in ("shortest", "longest", "squash"):
    preprocess = image_transform_v2(
        PreprocessCfg(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode), is_train=False
    )
    for form in ("PNG", "GIF"):
        ends, _ = compared(f"stripes, {form} with a palette", opened(grey(stripes_HW).quantize(2), form))
        ok &= ends in ([0, 0, 0.5, 0.5], [1, 1, 0.5, 0.5])
    ends, _ = compared("stripes, 1-bit PNG", opened(grey(stripes_HW).convert("1"), "PNG"))
    ok &= ends in ([0, 0, 0.5, 0.5], [1, 1, 0.5, 0.5])
    ok &= compared("stripes, PNG", opened(grey(stripes_HW), "PNG"))[1] == 0
    ok &= compared("rings, PNG with a palette", opened(grey(rings_HW).quantize(256), "PNG"))[1] > 0.1
    ok &= compared("rings, PNG", opened(grey(rings_HW), "PNG"))[1] == 0
    hidden = np.zeros((SIDE, SIDE, 4), np.uint8)
    hidden[..., 0] = 255  # red, and wholly transparent
    ends, _ = compared("hidden red, PNG", opened(Image.fromarray(hidden), "PNG"))
    ok &= ends == [0, 0, 0, 1]
sys.exit(0 if ok else "palettes are shrunk otherwise now")
PY
