#!/usr/bin/env bash
# DuckDB: an Arrow table with one float16 column cannot be asked at all, while the same table as Parquet can.
#
# One would guess: a query that does not name the float16 column never sees it; and what holds for the table holds for its
#   Parquet file.
# What happens: the whole Arrow table is refused ("Unsupported Internal Arrow Type e"), also for `SELECT id`. Written to
#   Parquet by pyarrow, the column is read as FLOAT, and sums are right.
# Why it matters: embeddings are often kept in float16; the error names a letter and no column. Leave the column out before
#   DuckDB sees the table, cast it to float32, or hand over a Parquet file.
# Versions: duckdb 2.0.1, pyarrow 26.0.1, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"id": [1, 2, 3, 4], "half": pa.array(np.full(4, 0.5, np.float16))})
pq.write_table(table, "table.parquet")
without, wide = table.drop_columns("half"), table.set_column(1, "half", table["half"].cast(pa.float32()))


def answer(query: str) -> str:
    try:
        return str(duckdb.sql(query).fetchall()[0][0])
    except duckdb.NotImplementedException:
        return "refused"


queries = {
    "SELECT sum(id) FROM table": "refused",
    "SELECT sum(id) FROM without": "10",
    "SELECT sum(half) FROM wide": "2.0",
    "SELECT sum(half) FROM 'table.parquet'": "2.0",
    "SELECT typeof(half) FROM 'table.parquet'": "FLOAT",
}
seen = {query: answer(query.replace("FROM table", 'FROM "table"')) for query in queries}
for query, what in seen.items():
    print(f"{query:<42} {what}")
sys.exit(seen != queries)
PY
