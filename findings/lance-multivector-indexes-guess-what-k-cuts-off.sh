#!/usr/bin/env bash
# Lance: an index over several vectors a row guesses distances, also where every partition is probed and nothing is quantised.
#
# One would guess: IVF_FLAT keeps vectors as they are; a search that probes all of its partitions is as exact as one
#   without an index, and `_distance` does not hang on how many rows are asked for.
# What happens: each vector of the query fetches its own nearest, in a number that follows `k`; a row that is missing in one
#   of these lists is given the worst similarity in it. Of 50 queries with two vectors each, for k = 10, the best row comes first in half,
#   73 % of the ten are found, and the worst distance of an answer is wrong by 0.4 on average. With k = 1 the best row is
#   found for 38 %; with k the number of rows all is right. `refine_factor=1` mends distances and no rows, 5 mends both here.
#   Without an index all is exact.
# Why it matters: frames of a video or crops of a page are kept so. Recall falls on the day of the index, raising `nprobes`
#   changes nothing, and a threshold on `_distance` means another thing for each `k`. Always give `refine_factor`.
# Versions: pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11, Linux x86-64. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import sys

import lance
import numpy as np
import pyarrow as pa

ROWS, DIM, PARTITIONS = 400, 16, 4
rng = np.random.default_rng(0)
items = [rng.standard_normal((rng.integers(1, 6), DIM)).astype(np.float32) for _ in range(ROWS)]
items = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in items]
column = pa.array([item.tolist() for item in items], pa.list_(pa.list_(pa.float32(), DIM)))
dataset = lance.write_dataset(pa.table({"id": range(ROWS), "vectors": column}), "t.lance")
queries = [np.concatenate([items[row][:1], items[row + 1][:1]]) for row in range(0, 200, 4)]
# of a row: the sum, over the query's vectors, of the smallest cosine distance to one of the row's
true = [np.array([(1 - (query @ item.T).max(axis=1)).sum() for item in items]) for query in queries]


def measured(k, **options):
    """Mean share of the k nearest found, share of answers that begin with a nearest row, mean of each answer's largest error."""
    recall, first, error = [], [], []
    for query, distances in zip(queries, true):
        nearest = {"column": "vectors", "q": query, "k": k, "metric": "cosine", "nprobes": PARTITIONS} | options
        answer = dataset.to_table(columns=["id", "_distance"], nearest=nearest).to_pydict()
        limit = np.sort(distances)[k - 1] + 1e-5
        recall.append(sum(distances[row] <= limit for row in answer["id"]) / k)
        first.append(distances[answer["id"][0]] <= distances.min() + 1e-5)
        error.append(max(abs(told - distances[row]) for row, told in zip(answer["id"], answer["_distance"])))
    return float(np.mean(recall)), float(np.mean(first)), float(np.mean(error))


seen = {}


def show(name, k, **options):
    recall, first, error = seen[name, k] = measured(k, **options)
    print(f"{name}, k = {k}: {recall:.2f} of the nearest found, the best first in {first:.2f}, distances wrong by {error:.2f}")


for k in (1, 10):
    show("no index", k)
dataset = dataset.create_index("vectors", "IVF_FLAT", metric="cosine", num_partitions=PARTITIONS)
for k in (1, 10, ROWS):
    show("IVF_FLAT, all partitions", k)
show("refine_factor=1", 10, refine_factor=1)
show("refine_factor=5", 10, refine_factor=5)

exact = [seen["no index", 1], seen["no index", 10], seen["IVF_FLAT, all partitions", ROWS], seen["refine_factor=5", 10]]
ok = all(recall > 0.99 and first == 1 and error < 1e-4 for recall, first, error in exact)
recall, first, error = seen["IVF_FLAT, all partitions", 10]
ok &= 0.6 < recall < 0.85 and 0.35 < first < 0.65 and 0.2 < error < 0.6
ok &= seen["IVF_FLAT, all partitions", 1][0] < 0.5
recall, first, error = seen["refine_factor=1", 10]
ok &= 0.6 < recall < 0.85 and first > 0.95 and error < 1e-4
sys.exit(0 if ok else "an index over several vectors a row does otherwise now")
PY
