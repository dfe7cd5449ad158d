#!/usr/bin/env bash
# Lance, LanceDB: a search for distances from 0 up leaves out vectors that are the same, a quarter of them or more.
#
# One would guess: a cosine distance is never below 0, so `distance_range(0, 0.1)` is everything nearer than 0.1, and whatever
#   is identical comes first of all.
# What happens: the distance of a vector to itself is worked out in float32 and is often -1.2e-7, and what lies below the lower
#   bound is dropped. Without an index and with IVF_FLAT each row is searched for by its own vector, and about one in three is not
#   found; it has no nearer neighbour, so that nothing at all comes back. With IVF_RQ, whose estimates err to
#   both sides (down to -0.01), it is every second row, by L2 as well. `refine_factor` adds losses instead of mending them: the
#   range is applied before and after it. With no lower bound, or one of -0.1, every row is found.
# Why it matters: looking for copies of a picture is where one writes such a range; the exact copies are what it misses, and the
#   answer is an empty list that reads as "no copy". Leave the lower bound out.
# Versions: pylance 13.0.0, lancedb 0.40.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11, Linux x86-64. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 lancedb==0.40.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import sys

import lance
import lancedb
import numpy as np
import pyarrow as pa

ROWS, DIM, ASKED = 1_000, 128, range(0, 1_000, 10)
vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
rows = pa.table({"id": range(ROWS), "vector": column})


def misses(dataset, metric, **options):
    """Of 100 rows, how many a search by their own vector does not find among its three nearest."""
    missed = 0
    for row in ASKED:
        nearest = {"column": "vector", "q": vectors[row], "k": 3, "metric": metric} | options
        missed += row not in dataset.to_table(columns=["id", "_distance"], nearest=nearest)["id"].to_pylist()
    return missed


ok = True
for kind, metric, some in (
    (None, "cosine", True),
    ("IVF_FLAT", "cosine", True),
    ("IVF_RQ", "cosine", True),
    ("IVF_RQ", "l2", True),
    (None, "l2", False),
    ("IVF_FLAT", "l2", False),
):
    dataset = lance.write_dataset(rows, f"{kind}-{metric}.lance")
    if kind:
        dataset = dataset.create_index("vector", kind, metric=metric, num_partitions=1)
    from_zero, refined = {"distance_range": (0.0, 0.5)}, {"refine_factor": 5} if kind else {}
    seen = [
        misses(dataset, metric, **from_zero),
        misses(dataset, metric, **from_zero, **refined),
        misses(dataset, metric, distance_range=(None, 0.5)),
        misses(dataset, metric, distance_range=(-0.1, 0.5)),
    ]
    print(f"index {kind}, {metric}: of 100 are not found from 0, refined, without a lower bound, from -0.1: {seen}")
    ok &= (8 <= seen[0] <= 80 if some else seen[0] == 0) and seen[2:] == [0, 0]
    ok &= seen[1] >= seen[0]

table = lancedb.connect(".").create_table("t", rows)
empty = 0
for row in ASKED:
    search = table.search(vectors[row]).distance_type("cosine").distance_range(0, 0.1)
    empty += not search.to_list()
print(f"LanceDB without an index: {empty} of 100 searches by a stored vector, from 0 to 0.1, find nothing at all")
ok &= 8 <= empty <= 80
sys.exit(0 if ok else "a range from zero holds the same vector now")
PY
