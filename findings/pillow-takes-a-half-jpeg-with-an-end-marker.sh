#!/usr/bin/env bash
# Pillow: half of a JPEG, with the two bytes of an end marker behind it, is a whole picture.
#
# One would guess: where half of the compressed data is missing, decoding raises, as it does for a file that was cut off
#   ("image file is truncated").
# What happens: Pillow notices a missing end, not missing data. libjpeg warns ("premature end of data segment") and fills the
#   rest with grey; Pillow drops the warning. `verify()` says nothing either.
# Why it matters: mirrors, proxies and repair tools append the marker. Such pictures get embedded and tagged as what their
#   upper half shows, above a grey field. A decoder that hands warnings on (simplejpeg with `strict=True`) tells.
# Versions: Pillow 13.0.0, simplejpeg 1.9.0, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 simplejpeg==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
import simplejpeg
from PIL import Image

y, x = np.mgrid[0:256, 0:256]
picture = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x * y) % 256], axis=-1).astype(np.uint8)
buffer = io.BytesIO()
Image.fromarray(picture).save(buffer, "JPEG", quality=90)
whole = buffer.getvalue()
half = whole[: len(whole) // 2]


def by_pillow(data: bytes) -> str:
    try:
        Image.open(io.BytesIO(data)).verify()
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except OSError as error:
        return type(error).__name__
    return "grey below" if pixels[-64:].std() < 1 else "whole"


def by_simplejpeg(data: bytes) -> str:
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError:
        return "ValueError"
    return "whole"


seen = {name: (by_pillow(data), by_simplejpeg(data)) for name, data in
        {"whole": whole, "half": half, "half and end marker": half + b"\xff\xd9"}.items()}
for name, (pillow, strict) in seen.items():
    print(f"{name:<20} Pillow: {pillow:<11} simplejpeg, strict: {strict}")
sys.exit(seen != {"whole": ("whole", "whole"), "half": ("OSError", "ValueError"),
                  "half and end marker": ("grey below", "ValueError")})
PY
