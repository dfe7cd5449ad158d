#!/usr/bin/env bash
# Lance, LanceDB: expressions of one update read columns that it has just set, in an order that changes from call to call.
#
# One would guess: as in SQL, every expression of an update is worked out from the row as it was, so `{"before": "now",
#   "now": "'cat'"}` keeps the old value in `before`, and `{"a": "b", "b": "a"}` swaps two columns.
# What happens: each expression in turn is worked out on the row that the ones before it have changed, and the turns are those
#   of a hash map with a new seed in every call. Of many such updates about half keep the old value, and in the others it is
#   gone: both columns hold the new one. A swap gives the same value twice, always. With one call over many rows all of them
#   fare alike, so that one try proves nothing. LanceDB's `update(values_sql=...)` does the same. `where` sees old values.
# Why it matters: "keep the old label, then set the new one" loses half of the labels for good, passes its test every second
#   time, and nothing says so. Update a column at a time, in the order that is meant, or write both by `merge_insert`.
# Versions: pylance 13.0.0, lancedb 0.40.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 lancedb==0.40.0 pyarrow==26.0.1
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import shutil
import sys
from collections import Counter

import lance
import lancedb
import pyarrow as pa

TRIES = 60


def by_lance(rows, updates):
    shutil.rmtree("t.lance", ignore_errors=True)
    lance.write_dataset(rows, "t.lance").update(updates, where="now = 'dog'")
    return lance.dataset("t.lance").to_table()


def by_lancedb(rows, updates):
    table = lancedb.connect(".").create_table("t", rows, mode="overwrite")
    table.update(where="now = 'dog'", values_sql=updates)
    return table.to_arrow()


def seen(update, updates):
    """How often which pair of `before` and `now` came out of `fox`, `dog`; each call changes 100 rows."""
    rows = pa.table({"before": ["fox"] * 100, "now": ["dog"] * 100})
    found = Counter()
    for _ in range(TRIES):
        pairs = set(zip(*update(rows, updates).select(["before", "now"]).to_pydict().values(), strict=True))
        assert len(pairs) == 1, "rows of one call differ"
        found[pairs.pop()] += 1
    print(f"{update.__name__}, {TRIES} times {updates}: {dict(found)}")
    return set(found)


ok = True
for update in (by_lance, by_lancedb):
    ok &= seen(update, {"before": "now", "now": "'cat'"}) == {("dog", "cat"), ("cat", "cat")}
    ok &= seen(update, {"now": "'cat'", "before": "now"}) == {("dog", "cat"), ("cat", "cat")}
    ok &= seen(update, {"before": "now", "now": "before"}) == {("dog", "dog"), ("fox", "fox")}
sys.exit(0 if ok else "expressions of an update read other values now")
PY
