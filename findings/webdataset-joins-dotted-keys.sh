#!/usr/bin/env bash
# webdataset: what its writer takes as two samples its reader gives back as one.
#
# One would guess: `TarWriter` refuses a `__key__` that the reader cannot find again, or escapes it.
# What happens: a key with a dot is written as it is. The reader ends keys at the first dot, so `v1.0-a` and `v1.0-b` come
#   back as one sample `v1` with fields `0-a.jpg` and `0-b.jpg`; whoever asks for `jpg` finds nothing, without an error.
# Why it matters: file names with versions, times and prices have dots; of a whole shard one sample is left, or none.
# Versions: webdataset 1.0.2, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
import warnings

import webdataset

warnings.simplefilter("ignore")
written = [("v1.0-a", b"first"), ("v1.0-b", b"second"), ("plain", b"third")]
with webdataset.TarWriter("shard.tar") as tar:
    for key, data in written:
        tar.write({"__key__": key, "jpg": data})
found = [
    {name: value for name, value in sample.items() if name == "__key__" or not name.startswith("__")}
    for sample in webdataset.WebDataset("shard.tar", shardshuffle=False)
]
print(f"written: {written}")
print(f"read:    {found}")
print(f"with a jpg: {sum('jpg' in sample for sample in found)} of {len(written)}")
sys.exit(found != [{"__key__": "v1", "0-a.jpg": b"first", "0-b.jpg": b"second"}, {"__key__": "plain", "jpg": b"third"}])
PY
