#!/usr/bin/env bash
# Lance: compaction never merges fragments that an index covers with those that it does not, however small they are.
#
# One would guess: `compact_files` makes one fragment of many small ones; an index is its own matter.
# What happens: fragments are grouped by the indices that cover them. Four small indexed and four new fragments become two, and
#   stay two however often one compacts; after `optimize_indices` the same call makes one.
# Why it matters: a nightly job that compacts first and extends the indices after it does the two in the wrong order: it leaves
#   the new rows apart until the next night. Extend the indices, then compact.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import lance
import pyarrow as pa


def append(uri: str, start: int) -> None:
    lance.write_dataset(pa.table({"id": range(start, start + 100)}), uri, mode="append" if start else "create")


def table(uri: str) -> lance.LanceDataset:
    """Four fragments that an index covers, four that came after it."""
    for start in range(0, 800, 100):
        append(uri, start)
        if start == 300:
            lance.dataset(uri).create_scalar_index("id", "BTREE")
    return lance.dataset(uri)


compacted = table("compacted.lance")
counts = []
for _ in range(3):
    compacted.optimize.compact_files()
    counts.append(len(compacted.get_fragments()))
compacted.optimize.optimize_indices()
compacted.optimize.compact_files()
then = len(compacted.get_fragments())
indexed = table("indexed.lance")
indexed.optimize.optimize_indices()
indexed.optimize.compact_files()
first = len(indexed.get_fragments())
print(f"8 fragments, half of them indexed; compacted three times: {counts}; indices extended, compacted again: {then}")
print(f"indices extended first, compacted once: {first}")
sys.exit((counts, then, first) != ([2, 2, 2], 1, 1))
PY
