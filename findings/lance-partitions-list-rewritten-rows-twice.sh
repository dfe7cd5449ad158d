#!/usr/bin/env bash
# Lance: with stable row ids, the partitions of an index go on listing a rewritten row where its old vector lay.
#
# One would guess: `VectorIndexReader.read_partition` lists the rows of a partition, each row id in one partition; what was
#   updated is listed where it is now, or nowhere until it is indexed.
# What happens: an update of 40 rows by `merge_insert` keeps their ids, and the index still lists them all in the partitions of
#   the vectors they no longer have, while `num_unindexed_rows` says 40. Once `optimize_indices` has added them as a part,
#   each is listed twice, in two partitions, and nothing in what is read says which of the two is true. Merging the parts drops the
#   old one. Searches are right all the time: they mask by the fragments that each part covers. Without stable ids an update
#   gives new ones, so that the old entries are recognised by ids that no row has.
# Why it matters: whoever reads partitions to shard, sample, cache or check recall by them (the reader is public for that) puts
#   a row into a place where its vector is not, without an error, and only in tables that are updated in place.
# Versions: pylance 13.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11, Linux x86-64. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
LANCE_LOG=error LANCE_INCLUDE_VECTOR_CENTROIDS=false "$work/venv/bin/python" - <<'PY'
import sys
from collections import Counter

import lance
import numpy as np
import pyarrow as pa
from lance.dataset import VectorIndexReader

ROWS, DIM, REWRITTEN = 4_000, 32, range(100, 140)
rng = np.random.default_rng(0)
vectors = rng.standard_normal((ROWS, DIM)).astype(np.float32)


def rows(ids, numbers):
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), DIM)
    return pa.table({"id": pa.array(ids, pa.int64()), "vector": column})


def times(dataset):
    """How many partitions list each rewritten row, and how many rows the index says it does not hold."""
    known = dataset.scanner(columns=["id"], with_row_id=True).to_table().to_pydict()
    wanted = {row for row, number in zip(known["_rowid"], known["id"]) if number in REWRITTEN}
    reader = VectorIndexReader(dataset, "vector_idx")
    listed = [i for p in range(reader.num_partitions()) for i in reader.read_partition(p)["_rowid"].to_pylist()]
    found = Counter(Counter(i for i in listed if i in wanted).values())
    return dict(found), dataset.stats.index_stats("vector_idx")["num_unindexed_rows"]


seen = {}
for stable in (True, False):
    name = f"stable-{stable}.lance"
    dataset = lance.write_dataset(rows(range(ROWS), vectors), name, enable_stable_row_ids=stable)
    dataset.create_index("vector", "IVF_PQ", num_partitions=16, ivf_centroids=vectors[:16], num_sub_vectors=8)
    dataset.merge_insert("id").when_matched_update_all().execute(rows(REWRITTEN, -vectors[100:140]))
    found = [times(lance.dataset(name))]
    for merged in (0, 10):
        lance.dataset(name).optimize.optimize_indices(num_indices_to_merge=merged)
        found.append(times(lance.dataset(name)))
    seen[stable] = found
    for step, (listed, unindexed) in zip(("updated", "added to the index", "merged"), found):
        what = ", ".join(f"{rows} rows in {partitions}" for partitions, rows in listed.items()) or "none"
        print(f"stable row ids {stable}, {step}: of the 40 are listed in so many partitions: {what}; unindexed {unindexed}")

ok = seen[True] == [({1: 40}, 40), ({2: 40}, 0), ({1: 40}, 0)] and seen[False][:2] == [({}, 40), ({1: 40}, 0)]
sys.exit(0 if ok else "rewritten rows are listed otherwise now")
PY
