#!/usr/bin/env bash
# Lance: a scanner with a filter gives no batch, not even an empty one, until a row passes.
#
# One would guess: `to_batches` hands over a batch for every so many rows that were read, empty where nothing passed, so
#   a loop can look at a clock, count its progress or be stopped in between.
# What happens: batches without rows are swallowed. With a filter that nothing passes the loop's body never runs, and where the
#   last row is the only one that passes, it runs once, at the end; `batch_size` changes nothing.
# Why it matters: a time limit, a progress bar or a cancel button that is looked at between batches does not work for
#   exactly the queries that take longest. Scan groups of fragments (`fragments=[...]`) one after another instead.
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

ROWS, FILES = 200_000, 20
dataset = lance.write_dataset(pa.table({"n": range(ROWS)}), "t.lance", max_rows_per_file=ROWS // FILES)


def turns(where: str, size: int = 1024, **how: object) -> int:
    """How often a loop over the batches has control."""
    return sum(1 for _ in dataset.scanner(filter=where, batch_size=size, **how).to_batches())


SIZES = (128, 1024, 8192)
seen = {where: [turns(where, size) for size in SIZES] for where in ("n >= 0", "n < 0", f"n = {ROWS - 1}")}
for where, counts in seen.items():
    print(f"{where:<11} {ROWS:,} rows in {FILES} files, batches of {SIZES}: the loop ran {counts} times")
grouped = sum(1 + turns("n < 0", fragments=[fragment]) for fragment in dataset.get_fragments())
print(f"n < 0       fragment by fragment: {grouped} times")
every = all(count >= ROWS // size for size, count in zip(SIZES, seen["n >= 0"]))
sys.exit(not (every and list(seen.values())[1:] == [[0, 0, 0], [1, 1, 1]] and grouped == FILES))
PY
