#!/usr/bin/env bash
# Ray and Arrow: a slice of a table is sent as its rows, one of a batch or of a column with all rows behind it.
#
# One would guess: what a task returns costs what it holds: ten rows of a table, ten rows of a batch and ten values of a column
#   are small objects all three, as ten rows of a numpy array are.
# What happens: a slice of Arrow's is a view, and its pickle has the whole buffers. Ray knows and sends tables in another form,
#   but only tables: a `RecordBatch`, a `ChunkedArray` and an `Array` go by Arrow's pickle. Ten rows of 32 MB are an object of
#   32 MB in the store, for each of them: a batch that is handed out in a hundred pieces takes a hundred times its size.
# Why it matters: what streams rows is written with batches (`to_batches`, Parquet and Lance scanners), tested on tables, and
#   fills the object store with spilled copies. Return `pa.Table.from_batches([piece])`, or what `take` gives,
#   which is a copy.
# Versions: ray 2.60.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
env -u RAY_ADDRESS RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" -W ignore - <<'PY' 2> log.txt
import sys

import numpy as np
import pyarrow as pa
import ray
from ray.experimental import get_object_locations

ROWS, KEPT = 4_000_000, 10
WHOLE, SMALL = 8 * ROWS, 10_000
PIECES = {
    "numpy array": lambda values: values[:KEPT],
    "Table": lambda values: pa.table({"value": values}).slice(0, KEPT),
    "RecordBatch": lambda values: pa.record_batch({"value": values}).slice(0, KEPT),
    "ChunkedArray": lambda values: pa.table({"value": values})["value"].slice(0, KEPT),
    "Array": lambda values: pa.array(values).slice(0, KEPT),
    "Table of a RecordBatch": lambda values: pa.Table.from_batches([pa.record_batch({"value": values}).slice(0, KEPT)]),
    "RecordBatch by take": lambda values: pa.record_batch({"value": values}).take(pa.array(range(KEPT))),
}

store = {"object_store_memory": 1_000_000_000}
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="fatal", **store)


@ray.remote
def ten_rows(kind):
    return PIECES[kind](np.arange(ROWS))


seen = {}
for kind in PIECES:
    piece = ten_rows.remote(kind)
    assert len(ray.get(piece)) == KEPT
    seen[kind] = get_object_locations([piece])[piece]["object_size"]
    print(f"{kind}: {KEPT} of {ROWS:,} rows are an object of {seen[kind]:,} bytes")
ray.shutdown()
whole = {kind for kind, size in seen.items() if size >= WHOLE}
small = {kind for kind, size in seen.items() if size < SMALL}
sys.exit(whole != {"RecordBatch", "ChunkedArray", "Array"} or whole | small != set(PIECES))
PY
