#!/usr/bin/env bash
# datasets: the numpy format hands out float32 where float16 is stored.
#
# One would guess: `with_format("numpy")` gives arrays of the type that the features say, as `with_format("arrow")` does.
# What happens: features and Arrow say float16; numpy gives float32, whichever float was stored narrower or wider, unless a
#   dtype is named. `from_dict` of an array (N, D) makes lists without a length, while an Arrow table keeps the length.
# Why it matters: what was sized for float16 takes twice the memory, and float64 loses digits without a word. Name the type:
#   `with_format("numpy", dtype=np.float16)`.
# Versions: datasets 5.2.0, pyarrow 26.0.1, numpy 2.4.6, pandas 3.1.1, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" - <<'PY'
import sys

import datasets
import numpy as np
import pyarrow as pa

seen, kinds = {}, {}
for kind in (np.float16, np.float64):
    values = pa.array(np.full(8, 1 / 3, kind))
    data = datasets.Dataset(pa.table({"vector": pa.FixedSizeListArray.from_arrays(values, 4)}))
    name = np.dtype(kind).name
    seen[name] = str(data.with_format("numpy")[:]["vector"].dtype)
    kinds[name] = str(data.with_format("arrow")[:]["vector"].type)
    seen[f"{name}, dtype named"] = str(data.with_format("numpy", dtype=kind)[:]["vector"].dtype)
made = datasets.Dataset.from_dict({"vector": np.zeros((2, 4), np.float16)}).features["vector"]
for name, what in seen.items():
    print(f"{name:<22} numpy gives {what}")
print(f"arrow gives {kinds}; from_dict makes {made}")
sys.exit(
    seen != {"float16": "float32", "float16, dtype named": "float16", "float64": "float32", "float64, dtype named": "float64"}
    or "halffloat" not in kinds["float16"]
    or made.length != -1
)
PY
