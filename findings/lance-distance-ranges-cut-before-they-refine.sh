#!/usr/bin/env bash
# Lance, LanceDB: a distance range cuts by the index's doubled distances first, and `refine_factor` only sees what is left.
#
# One would guess: `_distance` of a quantised cosine index is 2 x (1 - cosine), but with `refine_factor` it is 1 - cosine; so a
#   range asked together with `refine_factor` is one of true distances, and finds every row within it as long as `k` allows.
# What happens: the range is applied twice: inside the index to its own distances, and after refining to the true ones. Within
#   a true distance of 0.3 are 572 rows; IVF_SQ, IVF_PQ, IVF_RQ and IVF_HNSW_SQ give some 300 of them, those nearer than 0.15,
#   refined or not, and each with a `_distance` that is right. IVF_FLAT gives 572, and so do the others where
#   one refines without a range and cuts oneself.
# Why it matters: whoever knows of the doubling adds `refine_factor`, sees true distances, and still gets half of the rows within
#   the threshold; replacing IVF_FLAT by a smaller index changes how many copies a picture has. Ask without a
#   range and compare `_distance` in your own code.
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

ROWS, DIM, WITHIN = 2_000, 64, 0.3
rng = np.random.default_rng(0)
wanted = rng.standard_normal(DIM).astype(np.float32)
wanted /= np.linalg.norm(wanted)
vectors = wanted + rng.standard_normal((ROWS, DIM)) * rng.uniform(0.02, 0.4, (ROWS, 1))
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
true = 1 - vectors @ wanted
near, half = set(np.flatnonzero(true < WITHIN).tolist()), int((true < WITHIN / 2).sum())
column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
rows = pa.table({"id": range(ROWS), "vector": column})
print(f"{len(near)} rows are within {WITHIN}, {half} within half of it")


def within(dataset, **options):
    """How many of the near ones are found with a `_distance` below the limit, and how far that is from the true one."""
    nearest = {"column": "vector", "q": wanted, "k": ROWS, "nprobes": 1, "ef": 2 * ROWS} | options
    found = dataset.to_table(columns=["id", "_distance"], nearest=nearest).to_pydict()
    pairs = [(row, told) for row, told in zip(found["id"], found["_distance"], strict=True) if told < WITHIN]
    return len({row for row, _ in pairs} & near), max(abs(told - true[row]) for row, told in pairs)


ok = True
for kind, parts in (("IVF_FLAT", {}), ("IVF_SQ", {}), ("IVF_PQ", {"num_sub_vectors": 16}), ("IVF_RQ", {}), ("IVF_HNSW_SQ", {})):
    dataset = lance.write_dataset(rows, f"{kind}.lance")
    dataset = dataset.create_index("vector", kind, metric="cosine", num_partitions=1, **parts)
    ranged = within(dataset, distance_range=(None, WITHIN))[0]
    refined, error = within(dataset, distance_range=(None, WITHIN), refine_factor=2)
    own, _ = within(dataset, refine_factor=2)
    print(f"{kind}: range {ranged}, range and refined {refined} (distances right to {error:.1e}), refined and cut here {own}")
    expected = len(near) if kind == "IVF_FLAT" else half
    ok &= abs(ranged - expected) < 20 and abs(refined - expected) < 20 and error < 1e-5 and own == len(near)

table = lancedb.connect(".").create_table("t", rows)
table.create_index("vector", config=lancedb.index.IvfSq(distance_type="cosine", num_partitions=1))
search = table.search(wanted).distance_type("cosine").refine_factor(2).limit(ROWS)
seen = len(search.distance_range(upper_bound=WITHIN).to_list())
print(f"LanceDB, IVF_SQ, range and refined: {seen}")
ok &= abs(seen - half) < 20
sys.exit(0 if ok else "a range is applied otherwise now")
PY
