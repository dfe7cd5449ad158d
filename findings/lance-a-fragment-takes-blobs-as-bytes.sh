#!/usr/bin/env bash
# Lance: `take` of a blob column gives a place from the dataset, the bytes themselves from a fragment, and an error in 2.2.
#
# One would guess: `fragment.take` is `dataset.take` of one fragment: the same rows in the same form.
# What happens: the dataset answers with the descriptor (position and size), so that a page of rows stays small. The fragment
#   answers with the whole bytes in files of 2.0 and 2.1, and in files of 2.2 raises "more fields in the schema than provided
#   column indices". A scan of the same fragment gives the descriptor in each.
# Why it matters: code that goes by fragments, as parallel readers do, reads gigabytes where a look at sizes was meant; and the
#   day the table is written in 2.2 it stops.
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
table = pa.table([pa.array([b"one", b"three"], pa.large_binary())], schema=pa.schema([blob]))


def kind(read) -> str:
    try:
        (value,) = read()["image"].to_pylist()
    except OSError as error:
        return "an error" if "more fields in the schema" in str(error) else str(error)
    return "bytes" if isinstance(value, bytes) else "a place" if isinstance(value, dict) else repr(value)


seen = {}
for version in ("2.0", "2.1", "2.2"):
    dataset = lance.write_dataset(table, f"t-{version}.lance", data_storage_version=version)
    (fragment,) = dataset.get_fragments()
    seen[version] = [
        kind(lambda: dataset.take([1], columns=["image"])),
        kind(lambda: fragment.take([1], columns=["image"])),
        kind(lambda: fragment.scanner(columns=["image"], offset=1, limit=1).to_table()),
    ]
    print(f"format {version}: dataset.take {seen[version][0]}, fragment.take {seen[version][1]}, a scan {seen[version][2]}")
sys.exit(seen != {v: ["a place", "an error" if v == "2.2" else "bytes", "a place"] for v in seen})
PY
