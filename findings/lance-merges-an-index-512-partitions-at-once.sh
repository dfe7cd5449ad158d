#!/usr/bin/env bash
# Lance: merging the segments of an IVF_RQ index takes more than its size; what bounds it is a variable named after IVF_PQ.
#
# One would guess: an index built in segments, to bound memory, is merged partition by partition, so that merging takes less
#   than building did.
# What happens: 512 partitions of every segment are read at once, and the next window while the first is written: of an index
#   of up to some thousand partitions that is all. LANCE_IVF_PQ_MERGE_PARTITION_WINDOW_SIZE=64 spares 40 % here, and more of
#   a larger one: the process that merged a million rows of 512 took 0.3 GB instead of 0.6 to 0.7. No argument does it, and
#   the variable is read at the first merge of the process.
# Why it matters: the merge becomes the peak of a build whose segments were made small on purpose, and grows with the table.
# Versions: pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11, Linux. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
cat > merge.py <<'PY'
import ctypes
import re

import lance
import numpy as np
import pyarrow as pa

ROWS, DIM, PARTITIONS, BITS = 30_000, 1536, 640, 5
ctypes.CDLL(None).mallopt(-3, 1 << 20)  # blocks of a megabyte go back when they are freed: no memory of the build is counted


def resident_mb(what):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{what}:\s+(\d+)", status.read())[1]) / 1000


rng = np.random.default_rng(0)
for _ in range(2):
    numbers = rng.standard_normal((ROWS // 2, DIM), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), DIM)
    lance.write_dataset(pa.table({"vector": column}), "t.lance", mode="append")
dataset = lance.dataset("t.lance")
centroids = numbers[:PARTITIONS] / np.linalg.norm(numbers[:PARTITIONS], axis=1, keepdims=True)
model = lance.lance.indices.build_rq_model(DIM, BITS)
built = [
    dataset.create_index_uncommitted(
        "vector", "IVF_RQ", name="v", metric="cosine", fragment_ids=[number], num_partitions=PARTITIONS,
        ivf_centroids=centroids, rabitq_model=model, num_bits=BITS,
    )
    for number in (0, 1)
]
ctypes.CDLL(None).malloc_trim(0)
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # the peak begins anew
before = resident_mb("VmRSS")
dataset.merge_existing_index_segments(built)
print(resident_mb("VmHWM") - before)
PY
grown() { rm -rf t.lance; LANCE_LOG=error "$work/venv/bin/python" merge.py; }
plain=$(grown)
few=$(LANCE_IVF_PQ_MERGE_PARTITION_WINDOW_SIZE=64 grown)
echo "codes of 29 MB; merging took $plain MB, and $few MB with windows of 64 partitions"
"$work/venv/bin/python" -c "import sys; sys.exit(not ($plain > 1.5 * $few and $plain > 2 * 29))"
