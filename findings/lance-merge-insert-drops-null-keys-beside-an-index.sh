#!/usr/bin/env bash
# Lance: rows without a key are inserted by `merge_insert`, and silently dropped once the key column has an index.
#
# One would guess: a null key matches nothing, as in SQL, so `when_not_matched_insert_all` inserts such a row every time; an
#   index on the key only makes the search for matches faster.
# What happens: so it is without an index, and with a zone map or a Bloom filter. With BTREE or BITMAP the join goes by the
#   index, and a new row whose key is null is neither inserted nor counted, without an error. With a key of two columns that is
#   a row where both are null, and only if both are indexed. `use_index(False)` inserts it, and so does asking for
#   `when_not_matched_by_source_delete`, which takes another road.
# Why it matters: the same nightly upsert begins to lose rows on the day somebody indexes the key to make it faster. Refuse
#   null keys before merging, or compare `num_inserted_rows` + `num_updated_rows` with the rows given.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import shutil
import sys

import lance
import pyarrow as pa


def rows(**columns):
    return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


def upserted(old, new, keys, indices, prepare=lambda merge: merge):
    """Values of `v` there after an upsert, and how many rows it says that it inserted and updated."""
    shutil.rmtree("t.lance", ignore_errors=True)
    dataset = lance.write_dataset(old, "t.lance")
    for column, kind in indices:
        dataset.create_scalar_index(column, kind)
    merge = lance.dataset("t.lance").merge_insert(keys).when_matched_update_all().when_not_matched_insert_all()
    told = prepare(merge).execute(new)
    values = sorted(lance.dataset("t.lance").to_table()["v"].to_pylist())
    return values, told["num_inserted_rows"] + told["num_updated_rows"]


old, new = rows(k=[1, 2], v=[1, 2]), rows(k=[2, None, 4], v=[20, 30, 40])
kept, dropped = ([1, 20, 30, 40], 3), ([1, 20, 40], 2)
ok = True
for kind, expected in ((None, kept), ("ZONEMAP", kept), ("BLOOMFILTER", kept), ("BTREE", dropped), ("BITMAP", dropped)):
    seen = upserted(old, new, "k", [("k", kind)] if kind else [])
    print(f"3 rows, one without a key; index {kind}: v is {seen[0]}, {seen[1]} rows counted")
    ok &= seen == expected
seen = upserted(old, new, "k", [("k", "BTREE")], lambda merge: merge.use_index(False))
print(f"index BTREE, use_index(False): v is {seen[0]}, {seen[1]} rows counted")
ok &= seen == kept
seen = upserted(old, new, "k", [("k", "BTREE")], lambda merge: merge.when_not_matched_by_source_delete())
print(f"index BTREE, rows that are not among the new deleted: v is {seen[0]}, {seen[1]} rows counted")
ok &= seen == ([20, 30, 40], 3)
old, new = rows(a=[1], b=[1], v=[1]), rows(a=[1, None, 3, None], b=[1, 2, None, None], v=[10, 20, 30, 40])
for names, left in (("a", [10, 20, 30, 40]), ("ab", [10, 20, 30])):
    seen = upserted(old, new, ["a", "b"], [(name, "BTREE") for name in names])
    print(f"key of a and b, index on {' and '.join(names)}: v is {seen[0]}")
    ok &= seen[0] == left
sys.exit(0 if ok else "rows without a key fare otherwise now")
PY
