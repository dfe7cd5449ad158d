#!/usr/bin/env bash
# Lance: whether a blob that is missing counts as null goes by the version of the file format.
#
# One would guess: of a blob column with one empty and one missing value, `IS NULL` finds the missing one, and a scan shows it
#   as None, as of every other column.
# What happens: so it is in files of 2.1 and 2.2. In files of 2.0 a scan shows {position: 1, size: 0} for it, the filter finds
#   no row, and NOT NULL finds all; only `take_blobs`, which opens each, says None.
# Why it matters: "rows without a picture" are counted as none in a table that an older release wrote, and one more reader
#   gets bytes of length 0 where nothing was ever stored. A table keeps the format it was created with.
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

blob = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
table = pa.table([pa.array([b"", None, b"abc"], pa.large_binary())], schema=pa.schema([blob]))
seen = {}
for version in ("2.0", "2.1", "2.2"):
    dataset = lance.write_dataset(table, f"t-{version}.lance", data_storage_version=version)
    missing = dataset.to_table(columns=["image"])["image"].to_pylist()[1]
    nulls = dataset.count_rows("image IS NULL")
    opened = [None if one is None else one.size() for one in dataset.take_blobs("image", indices=[0, 1, 2])]
    seen[version] = (missing, nulls, opened)
    print(f"format {version}: the missing blob is scanned as {missing}; IS NULL finds {nulls}; sizes when opened {opened}")
other = (None, 1, [0, None, 3])
sys.exit(seen != {"2.0": ({"position": 1, "size": 0}, 0, [0, None, 3]), "2.1": other, "2.2": other})
PY
