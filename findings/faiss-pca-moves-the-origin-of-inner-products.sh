#!/usr/bin/env bash
# faiss: "PCA" before an index of inner products changes who is nearest, also where it drops no dimension.
#
# One would guess: `PCA64` of 64 dimensions is a rotation; inner products and distances stay, and recall is 1.
# What happens: it also takes the mean of the training vectors from each vector and from each query. That leaves L2 as it is and
#   no inner product: of the ten nearest 0.3 are left for queries like the vectors, and half for queries that
#   lie elsewhere, as captions do beside pictures. The scores are other numbers too. `RR64` (a rotation at random) and a PCA whose
#   mean was set to zero give all of them.
# Why it matters: embeddings of CLIP are unit vectors, compared by inner product, and their mean is far from zero. The loss
#   passes for the price of fewer dimensions, and tuning lists and probes will not find it. Use L2 over unit vectors, which
#   orders them alike, or set the mean to zero.
# Versions: faiss-cpu 1.15.1, numpy 2.4.6, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import sys

import faiss
import numpy as np

ROWS, QUERIES, DIM, K = 5_000, 200, 64, 10
rng = np.random.default_rng(0)
pictures_mean, captions_mean = (mean / np.linalg.norm(mean) for mean in rng.standard_normal((2, DIM)))


def around(mean, rows):
    """Unit vectors around a mean of length 1."""
    vectors = rng.standard_normal((rows, DIM)) / np.sqrt(DIM) + mean
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


pictures = around(pictures_mean, ROWS)
queries = {"pictures": around(pictures_mean, QUERIES), "captions": around(captions_mean, QUERIES)}


def recall(what, metric, asked, mean=True):
    """Share of the true ten nearest that the index finds."""
    true = faiss.IndexFlat(DIM, metric)
    true.add(pictures)
    index = faiss.index_factory(DIM, what, metric)
    index.train(pictures)
    if not mean:
        change = faiss.downcast_VectorTransform(index.chain.at(0))
        faiss.copy_array_to_vector(np.zeros(DIM, np.float32), change.mean)
        change.prepare_Ab()
    index.add(pictures)
    pairs = zip(index.search(asked, K)[1], true.search(asked, K)[1])
    return float(np.mean([len(set(found) & set(wanted)) / K for found, wanted in pairs]))


ok = True
for name, asked in queries.items():
    seen = {
        "PCA64, L2": recall("PCA64,Flat", faiss.METRIC_L2, asked),
        "PCA64, inner product": recall("PCA64,Flat", faiss.METRIC_INNER_PRODUCT, asked),
        "the same without a mean": recall("PCA64,Flat", faiss.METRIC_INNER_PRODUCT, asked, mean=False),
        "RR64, inner product": recall("RR64,Flat", faiss.METRIC_INNER_PRODUCT, asked),
    }
    print(f"{name} ask for the {K} nearest pictures: " + ", ".join(f"{what}: {share:.2f}" for what, share in seen.items()))
    lost = seen.pop("PCA64, inner product")
    ok &= lost < 0.65 and min(seen.values()) > 0.99
sys.exit(0 if ok else "PCA before inner products does otherwise now")
PY
