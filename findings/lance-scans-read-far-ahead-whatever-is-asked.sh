#!/usr/bin/env bash
# Lance: a scan that is read slowly, batch by batch, takes the memory of the whole column, whatever it is told.
#
# One would guess: batches of 1,024 vectors of 1 kB, `batch_readahead=1`, `fragment_readahead=1` and an `io_buffer_size` of
#   8 MB bound a scan to some tens of megabytes, as its consumer takes one batch at a time.
# What happens: decoding runs ahead of the consumer. Over a column of 205 MB in one fragment the process grows by some 300 MB,
#   with all three options as without any. The same rows by scans of 8,192 (`offset`, `limit`) take a tenth of it.
# Why it matters: a worker with a memory limit that walks a large table "in batches" is killed by its largest fragment, and
#   no option of the scanner helps.
# Versions: pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11, Linux. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa

ROWS, DIM = 200_000, 512
numbers = np.random.default_rng(0).standard_normal(ROWS * DIM, np.float32).astype(np.float16)
table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIM)})
lance.write_dataset(table, "t.lance", max_rows_per_file=ROWS)

READER = """
import re, sys, time
import lance

def peak_mb():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) / 1000

dataset = lance.dataset("t.lance")
dataset.take([0])
few = dict(batch_readahead=1, fragment_readahead=1, io_buffer_size=8_000_000)
scans = {
    "plain": lambda: [dataset.scanner(batch_size=1024)],
    "bounded": lambda: [dataset.scanner(batch_size=1024, **few)],
    "short": lambda: (dataset.scanner(batch_size=1024, offset=n, limit=8192) for n in range(0, dataset.count_rows(), 8192)),
}
before, rows = peak_mb(), 0
for scan in scans[sys.argv[1]]():
    for batch in scan.to_batches():
        rows += batch.num_rows
        time.sleep(0.002)
assert rows == dataset.count_rows()
print(peak_mb() - before)
"""
grew = {}
for how in ("plain", "bounded", "short"):
    grew[how] = float(subprocess.run([sys.executable, "-c", READER, how], capture_output=True, text=True, check=True).stdout)
print(f"the column: {ROWS * DIM * 2 / 1e6:.0f} MB; grown by", {how: f"{mb:.0f} MB" for how, mb in grew.items()})
sys.exit(not (grew["bounded"] > 0.8 * grew["plain"] and grew["plain"] > 150 and grew["short"] < 100))
PY
