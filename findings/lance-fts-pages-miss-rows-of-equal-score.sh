#!/usr/bin/env bash
# Lance: pages of a full-text search repeat some rows and never show others.
#
# One would guess: on a table that does not change, `limit` and `offset` cut one ranking into pieces, so all pages together
#   show every hit once; equal scores come in some fixed order, say that of the rows.
# What happens: which rows of equal score make the cut depends on limit + offset. The first five hits are not the first five
#   of the first ten. Over all pages dozens of rows come twice and as many never. A search that is paged by raising the
#   limit does the same.
# Why it matters: captions from templates, labels and short titles score alike by the thousand. Whoever pages through
#   hits to count, export or delete them leaves rows out. Take all hits in one query and sort them by score and an id.
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

ROWS, PAGE = 3000, 50
captions = [f"a {('red', 'blue')[row % 2]} boat on a lake" for row in range(ROWS)]
dataset = lance.write_dataset(pa.table({"id": range(ROWS), "caption": captions}), "t.lance", max_rows_per_file=500)
dataset.create_scalar_index("caption", "INVERTED")
dataset = lance.dataset("t.lance")


def ids(limit: int, offset: int = 0) -> list[int]:
    scanner = dataset.scanner(columns=["id", "_score"], full_text_query="red", limit=limit, offset=offset)
    return scanner.to_table()["id"].to_pylist()


hits = ROWS // 2
paged = [row for offset in range(0, hits, PAGE) for row in ids(PAGE, offset)]
raised = [row for limit in range(PAGE, hits + 1, PAGE) for row in ids(limit)[limit - PAGE :]]
print(f"first 5: {ids(5)}; first 10: {ids(10)}")
print(f"{hits} hits in pages of {PAGE}: {len(paged)} rows shown, {len(set(paged))} different ones")
print(f"paged by raising the limit: {len(raised)} rows shown, {len(set(raised))} different ones")
print(f"all at once: {len(set(ids(hits)))} different ones")
sys.exit(not (len(paged) == hits > len(set(paged)) and hits > len(set(raised)) and len(set(ids(hits))) == hits))
PY
