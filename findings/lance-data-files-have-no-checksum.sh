#!/usr/bin/env bash
# Lance: a bit that turns over inside a data file is another vector, not an error.
#
# One would guess: a columnar format that is versioned and indexed notices when the bytes of a file are not those that
#   were written, as a gzip or a PNG does.
# What happens: data files carry no checksum. One flipped bit among stored vectors reads as other numbers, and so does the
#   whole file of another table of the same schema, put in its place; `validate` says nothing.
# Why it matters: a disk, a copy or a backup that is not what it was gives wrong neighbours for ever. What can notice is the
#   reader's own: a length of one for vectors, a hash beside the bytes, recall of an index against brute force.
# Versions: pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import shutil
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

TRIES = 40


def write(name: str, seed: int) -> Path:
    """A table of 1,000 random vectors; returns its only data file."""
    vectors = np.random.default_rng(seed).normal(size=(1000, 16)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16)
    lance.write_dataset(pa.table({"vector": column}), name)
    (file,) = Path(name, "data").iterdir()
    return file


def read(name: str) -> pa.Table:
    dataset = lance.dataset(name)
    dataset.validate()
    return dataset.to_table()


mine, other = write("mine.lance", 1), write("other.lance", 2)
before, whole = read("mine.lance"), mine.read_bytes()
changed = refused = 0
for offset in np.random.default_rng(3).integers(0, before.nbytes // 2, TRIES):
    damaged = bytearray(whole)
    damaged[offset] ^= 0x10
    mine.write_bytes(damaged)
    try:
        changed += not read("mine.lance").equals(before)
    except Exception:
        refused += 1
shutil.copy(other, mine)
swapped = read("mine.lance").equals(read("other.lance"))
print(f"one bit flipped, {TRIES} times: {changed} read as other values, {refused} refused")
print(f"the file of another table in its place: {'read without a word' if swapped else 'noticed'}")
sys.exit(not (changed == TRIES and refused == 0 and swapped))
PY
