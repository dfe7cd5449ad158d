#!/usr/bin/env bash
# Arrow: a `.zst` or `.lz4` that Arrow wrote carries no checksum, and damage reads as other bytes of the same length.
#
# One would guess: compressed streams notice when they are damaged, as gzip and bz2 do; the `zstd` command writes a checksum
#   by default, so Arrow's does.
# What happens: `CompressedOutputStream(..., "zstd")` leaves the frame's checksum flag unset. One changed bit in the middle is
#   read as other bytes in nine cases of ten, without an error, mostly with the right length; lz4 alike. gzip and bz2 notice
#   every one of them.
# Why it matters: captions and manifests kept as `.zst` look safer than plain text and are not; a damaged copy is taken for
#   good. Keep a hash beside the file, or write with a tool that has checksums on: Arrow's reader does check those.
# Versions: pyarrow 26.0.1, zstandard 0.25.0, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 zstandard==0.25.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import random
import sys
from collections import Counter

import pyarrow as pa
import zstandard

TRIES = 60
rng = random.Random(1)
words = [rng.randbytes(6).hex() for _ in range(4000)]
plain = " ".join(rng.choice(words) for _ in range(60_000)).encode()


def by_arrow(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(plain)
    return sink.getvalue().to_pybytes()


def outcomes(packed: bytes, codec: str) -> Counter[str]:
    """One bit changed, at places spread over the stream."""
    seen: Counter[str] = Counter()
    for place in range(1, TRIES + 1):
        damaged = bytearray(packed)
        damaged[len(packed) * place // (TRIES + 2)] ^= 1
        try:
            read = pa.CompressedInputStream(pa.BufferReader(bytes(damaged)), codec).read()
        except OSError:
            seen["noticed"] += 1
        else:
            length = "" if len(read) == len(plain) else ", other length"
            seen[f"other bytes{length}" if read != plain else "same bytes"] += 1
    return seen


streams = {f"{codec} by Arrow": (by_arrow(codec), codec) for codec in ("zstd", "lz4", "gzip", "bz2")}
streams["zstd with checksum"] = (zstandard.ZstdCompressor(write_checksum=True).compress(plain), "zstd")
seen = {name: outcomes(*stream) for name, stream in streams.items()}
for name, counts in seen.items():
    print(f"{name:<19} {TRIES} single bits changed: {dict(counts)}")
unseen = {name: counts["other bytes"] + counts["other bytes, other length"] for name, counts in seen.items()}
silent = min(seen[f"{codec} by Arrow"]["other bytes"] for codec in ("zstd", "lz4")) > TRIES // 2
sys.exit(not silent or any(unseen[name] for name in ("gzip by Arrow", "bz2 by Arrow", "zstd with checksum")))
PY
