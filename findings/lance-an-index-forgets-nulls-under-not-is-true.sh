#!/usr/bin/env bash
# Lance: `NOT (flag IS TRUE)` loses the rows without a value once the column has an index.
#
# One would guess: an index changes how fast a filter is answered. `flag IS TRUE` is false where `flag` is null, never
#   null itself, so NOT of it keeps the rows that are false and those without a value.
# What happens: a BITMAP or BTREE index answers `flag IS TRUE` as it answers `flag = true`, and its NOT leaves out the rows
#   without a value, as is right of `=` only. So does `(flag IS TRUE) = false`, and `NOT (flag IS FALSE)`. Rows that were
#   added after the index are scanned and kept. `flag IS NOT TRUE` is right in both.
# Why it matters: "everything that is not known to be nudity" is half of it from one day to the next, and nothing
#   says so. Write IS NOT TRUE.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
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

rows = pa.table({"flag": [True, False, None] * 100})
seen = {}
for kind in ("none", "BITMAP", "BTREE"):
    dataset = lance.write_dataset(rows, f"{kind}.lance")
    if kind != "none":
        dataset.create_scalar_index("flag", kind)
    asked = ("NOT (flag IS TRUE)", "NOT (flag IS FALSE)", "(flag IS TRUE) = false", "flag IS NOT TRUE", "NOT (flag = true)")
    seen[kind] = [dataset.count_rows(expression) for expression in asked]
    print(f"index {kind}: " + ", ".join(f"{e}: {n}" for e, n in zip(asked, seen[kind])))
    lance.write_dataset(rows, f"{kind}.lance", mode="append")
    print(f"  and with 300 new rows: {lance.dataset(f'{kind}.lance').count_rows(asked[0])}")
    seen[kind].append(lance.dataset(f"{kind}.lance").count_rows(asked[0]))
sys.exit(seen != {"none": [200, 200, 200, 200, 100, 400], **dict.fromkeys(("BITMAP", "BTREE"), [100, 100, 100, 200, 100, 300])})
PY
