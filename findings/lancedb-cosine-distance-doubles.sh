#!/usr/bin/env bash
# LanceDB: a quantised index doubles cosine distances, and one appended row halves them again.
#
# One would guess: `_distance` with `distance_type="cosine"` is 1 - cosine, with an index as without, up to the error of
#   the quantisation.
# What happens: with IVF_SQ and IVF_HNSW_SQ, where every row is indexed, it is 2 x (1 - cosine); after one row was
#   appended the same query gives 1 - cosine; `optimize` doubles it again. IVF_FLAT gives 1 - cosine throughout, and so
#   does `refine_factor`.
# Why it matters: a threshold such as "distance below 0.3" finds half as much, depending on which index there is and on
#   whether somebody wrote a row since. Compute the cosine from the stored vectors, or ask with `refine_factor`.
# Versions: lancedb 0.40.0, pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lancedb==0.40.0 pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq, IvfFlat, IvfSq

rng = np.random.default_rng(7)
vectors = rng.normal(size=(4000, 64)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
query = vectors[17] + 0.05 * rng.normal(size=64).astype(np.float32)
kind = pa.list_(pa.float32(), 64)


def rows(block):
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), 64).cast(kind)})


def ratio(table, **refine):
    """`_distance` of the best 20 over 1 - cosine of the same rows, median."""
    search = table.search(query).distance_type("cosine").nprobes(8).limit(20)
    if refine:
        search = search.refine_factor(refine["factor"])
    found = search.to_arrow()
    stored = np.stack(found["vector"].to_numpy(zero_copy_only=False))
    true = 1 - stored @ query / np.linalg.norm(query) / np.linalg.norm(stored, axis=1)
    return float(np.median(np.asarray(found["_distance"]) / true))


database = lancedb.connect("db")
expected = {"IvfFlat": (1, 1, 1, 1), "IvfSq": (2, 1, 2, 1), "HnswSq": (2, 1, 2, 1)}
seen = {}
for config in (IvfFlat, IvfSq, HnswSq):
    table = database.create_table(config.__name__, rows(vectors))
    table.create_index("vector", config=config(distance_type="cosine", num_partitions=8))
    indexed = ratio(table)
    table.add(rows(vectors[:1]))
    appended = ratio(table)
    table.optimize()
    optimised = ratio(table)
    seen[config.__name__] = (indexed, appended, optimised, ratio(table, factor=5))
    print(f"{config.__name__:<8} _distance over 1 - cosine: indexed {indexed:.2f}, one row appended {appended:.2f}, "
          f"optimised {optimised:.2f}, refined {seen[config.__name__][3]:.2f}")
rounded = {name: tuple(round(value) for value in values) for name, values in seen.items()}
sys.exit(rounded != expected)
PY
