#!/usr/bin/env bash
# Spark: a time in UTC goes through Spark to Parquet and comes back without a zone, in nanoseconds; one without a zone is read
# from Arrow as an hour of the session's zone, and from Parquet as it is.
#
# One would guess: `timestamp[us, tz=UTC]` in, `timestamp[us, tz=UTC]` out; and a time without a zone is the same thing by both
#   roads.
# What happens: Spark writes INT96 by default, which has no zone; pyarrow reads it as `timestamp[ns]`, the hours those of UTC.
#   With `spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS` the zone is there again. A time without a zone is
#   TIMESTAMP_NTZ from Parquet, and TIMESTAMP (an instant, by the session's zone) from an Arrow table.
# Why it matters: hours are compared with others that have a zone, or are refused; those from Arrow move when another session
#   with another zone reads them. Set the option, and give every time its zone before Spark sees it.
# Versions: pyspark 4.3.0 (Java 17), pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyspark==4.3.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
TZ=Europe/Berlin "$work/venv/bin/python" - 2>"$work/log" <<'PY' || { tail -5 "$work/log"; exit 1; }
import sys
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

noon = datetime(2026, 7, 1, 12)
utc = pa.table({"seen": pa.array([noon.replace(tzinfo=timezone.utc)], pa.timestamp("us", tz="UTC"))})
bare = pa.table({"seen": pa.array([noon], pa.timestamp("us"))})
pq.write_table(utc, "utc.parquet")
pq.write_table(bare, "bare.parquet")
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
spark = builder.config("spark.sql.session.timeZone", "Europe/Berlin").getOrCreate()


def back(kind: str) -> str:
    spark.conf.set("spark.sql.parquet.outputTimestampType", kind)
    spark.read.parquet("utc.parquet").write.parquet(kind)
    column = pq.read_table(kind)["seen"]
    return f"{column.type} {column[0].as_py():%H:%M}"


def kind(frame) -> str:
    return frame.schema["seen"].dataType.simpleString()


seen = {
    "UTC, written as Spark does": back(spark.conf.get("spark.sql.parquet.outputTimestampType")),
    "UTC, TIMESTAMP_MICROS": back("TIMESTAMP_MICROS"),
    "no zone, from Parquet": kind(spark.read.parquet("bare.parquet")),
    "no zone, from Arrow": kind(spark.createDataFrame(bare)),
    "no zone, from Arrow, back in Arrow": str(spark.createDataFrame(bare).toArrow()["seen"][0].as_py()),
}
expected = [
    "timestamp[ns] 12:00",
    "timestamp[us, tz=UTC] 12:00",
    "timestamp_ntz",
    "timestamp",
    "2026-07-01 10:00:00+00:00",
]
for what, said in seen.items():
    print(f"{what:<36} {said}")
spark.stop()
sys.exit(list(seen.values()) != expected)
PY
