#!/usr/bin/env bash
# Spark: a Parquet file with one column of float16 cannot be opened, also by those who want another column of it.
#
# One would guess: Parquet reads only the columns that are asked for, so `read.parquet(file).select("id")` works; an Arrow table
#   goes the same way.
# What happens: opening it is PARQUET_TYPE_ILLEGAL, whatever is selected. With a schema that does not name the float16 column
#   the others are read. `createDataFrame` of an Arrow table with such a column is refused too; float32 in a list of fixed
#   length arrives as array<float>, without the length.
# Why it matters: embeddings are often kept in float16. Write them as float32 for Spark, or give `read.schema(...)`.
# Versions: pyspark 4.3.0 (Java 17), pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyspark==4.3.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>"$work/log" <<'PY' || { tail -5 "$work/log"; exit 1; }
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException, PySparkTypeError
from pyspark.sql import SparkSession

warnings.simplefilter("ignore")
half = pa.array(np.full(8, 0.5, np.float16))
table = pa.table({"id": ["a", "b"], "vector": pa.FixedSizeListArray.from_arrays(half, 4)})
wide = table.set_column(1, "vector", pa.FixedSizeListArray.from_arrays(half.cast(pa.float32()), 4))
pq.write_table(table, "half.parquet")
pq.write_table(wide, "wide.parquet")
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()


def answer(action) -> str:
    try:
        return str(action())
    except AnalysisException as error:
        return error.getCondition()
    except PySparkTypeError as error:
        return error.getCondition()


def kind(frame) -> str:
    return frame.schema["vector"].dataType.simpleString()


seen = {
    "parquet, float16, select id": answer(lambda: spark.read.parquet("half.parquet").select("id").count()),
    "parquet, float16, a schema of id": answer(lambda: spark.read.schema("id string").parquet("half.parquet").count()),
    "parquet, float32": answer(lambda: kind(spark.read.parquet("wide.parquet"))),
    "Arrow, float16": answer(lambda: kind(spark.createDataFrame(table))),
    "Arrow, float32": answer(lambda: kind(spark.createDataFrame(wide))),
}
expected = [
    "PARQUET_TYPE_ILLEGAL",
    "2",
    "array<float>",
    "UNSUPPORTED_DATA_TYPE_FOR_ARROW_CONVERSION",
    "array<float>",
]
for what, said in seen.items():
    print(f"{what:<34} {said}")
spark.stop()
sys.exit(list(seen.values()) != expected)
PY
