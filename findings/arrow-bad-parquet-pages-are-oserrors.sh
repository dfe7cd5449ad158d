#!/usr/bin/env bash
# pyarrow: a Parquet page that cannot be decoded is an OSError without errno, as if the disk or the store had failed.
#
# One would guess: bad content is `ArrowInvalid`, and OSError means that reading the bytes failed: worth another try.
# What happens: damage inside a page compressed by gzip raises OSError ("GZipCodec failed"), mostly so by snappy ("Corrupt
#   snappy compressed data"), and so does a page header that cannot be parsed ("Couldn't deserialize thrift"); `errno` is
#   None. A file whose footer is cut off is ArrowInvalid. And pages carry no checksum unless asked for
#   (`write_page_checksum`): a fifth of the damage under snappy, and most of it uncompressed, reads as other values.
# Why it matters: a reader that tries again on OSError tries a damaged file for ever and blames the network; one that takes
#   OSError for bad data drops good files when the store is busy. Look at `errno`, or read the bytes first and parse them
#   from memory, where no OSError can be the store's.
# Versions: pyarrow 26.0.1, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import re
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

captions = [f"a photo of thing number {row * 7919 % 1000} and so on" for row in range(5000)]
table = pa.table({"caption": captions, "n": range(5000)})


def outcome(data: bytes) -> str:
    try:
        read = pq.read_table(io.BytesIO(data))
    except OSError as error:
        said.add(re.split(r"[.:]", str(error))[0])
        return f"{type(error).__name__} errno {error.errno}"
    except pa.ArrowInvalid:
        return "ArrowInvalid"
    return "same values" if read.equals(table) else "other values"


seen = {}
said: set[str] = set()
for codec in ("gzip", "snappy", "none"):
    file = io.BytesIO()
    pq.write_table(table, file, compression=codec)
    whole = file.getvalue()
    counts: Counter[str] = Counter()
    for place in range(200, len(whole) - 2000, len(whole) // 100):
        counts[outcome(whole[:place] + bytes(8) + whole[place + 8 :])] += 1
    seen[codec] = counts
    print(f"{codec:<7} eight bytes zeroed inside pages: {dict(counts)}; the footer cut off: {outcome(whole[:-100])}")
print(f"what the OSErrors say: {sorted(said)}")
cut = outcome(whole[:-100])
only = set(seen["gzip"]) == {"OSError errno None"}
mostly = seen["snappy"]["OSError errno None"] > 50 and seen["snappy"]["other values"] > 10
sys.exit(not (only and mostly and seen["none"]["other values"] > 50 and cut == "ArrowInvalid"))
PY
