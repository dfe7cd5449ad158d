#!/usr/bin/env bash
# pyarrow: with one filter `count_rows` counts NaN rows that `to_table` leaves out, and the answer hangs on the row groups.
#
# One would guess: `count_rows(filter)` is the number of rows of `to_table(filter)`, and statistics of a Parquet file only
#   spare reading.
# What happens: NaN is in no minimum and maximum, and pyarrow takes those for all of a row group. Where its numbers are all below
#   0.5, `score < 0.5` is certain to it: `count_rows` adds up lengths and counts the NaN too, while `to_table` compares once
#   more and drops it. `~(score < 0.5)`, which is true of a NaN in a table, skips the row group, in `read_table` too. With one
#   row of 0.9 in the same row group, or no statistics, both are as in a table.
# Why it matters: a score of nothing (0/0) is a NaN, and "all that is not below" is how one looks for it. A job that compares
#   its count with what it read stops, or does not, by how rows fell into groups. Ask `is_nan` too, and make NaN null first.
# Versions: pyarrow 26.0.1, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

low = pa.table({"score": pa.array([0.1, 0.2, 0.3, float("nan")], pa.float32())})
high = pa.concat_tables([low, pa.table({"score": pa.array([0.9], pa.float32())})])
pq.write_table(low, "low.parquet")
pq.write_table(high, "high.parquet")
pq.write_table(low, "unknown.parquet", write_statistics=False)
score = pc.field("score")
below, not_below = score < 0.5, ~(score < 0.5)
least, most = (getattr(pq.ParquetFile("low.parquet").metadata.row_group(0).column(0).statistics, end) for end in ("min", "max"))
print(f"statistics of 0.1, 0.2, 0.3 and NaN: from {least:.1f} to {most:.1f}")
# counted, read and read by read_table: those below, and those not below
expected = {
    "a table": [(3, 3, None), (1, 1, None)],
    "low.parquet": [(4, 3, 3), (0, 0, 0)],
    "high.parquet": [(3, 3, 3), (2, 2, 2)],
    "unknown.parquet": [(3, 3, 3), (1, 1, 1)],
}
seen = {}
for name in expected:
    dataset = ds.dataset(low if name == "a table" else name)
    seen[name] = [
        (
            dataset.count_rows(filter=asked),
            dataset.to_table(filter=asked).num_rows,
            None if name == "a table" else pq.read_table(name, filters=asked).num_rows,
        )
        for asked in (below, not_below)
    ]
    texts = [f"{counted} counted, {read} read" for counted, read, _ in seen[name]]
    print(f"{name:<16} score < 0.5: {texts[0]}; not (score < 0.5): {texts[1]}")
sys.exit(0 if seen == expected else f"NaN beside statistics is otherwise now: {seen}")
PY
