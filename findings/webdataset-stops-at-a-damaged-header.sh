#!/usr/bin/env bash
# tarfile, and webdataset on it: one damaged header in the middle of a tar ends it, without an error.
#
# One would guess: a tar whose fifth header does not fit its checksum raises an error, or the other members are read; GNU tar
#   does both: it skips to the next header and exits with 2.
# What happens: Python's `tarfile` takes a damaged header that is not the first for the end of the archive. So `getnames`, and
#   a webdataset over the shard, give four samples of ten and end as usual. A tar that is cut off just there ends as silently.
# Why it matters: training and embedding jobs lose the rest of a shard and nothing says so. Count the members by something
#   else (an index, the number that was written), or compare where reading ended with the size of the file.
# Versions: webdataset 1.0.2, numpy 2.4.6, Python 3.11's tarfile. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import sys
import tarfile
from pathlib import Path

import webdataset

MEMBERS, BLOCK = 10, 512  # each member is a block of header and a block of data


def count(name: str) -> tuple[int, int]:
    with tarfile.open(name) as archive:
        members = len(archive.getnames())
    return members, sum(1 for _ in webdataset.WebDataset(name, shardshuffle=False))


with tarfile.open("whole.tar", "w") as archive:
    for number in range(MEMBERS):
        member = tarfile.TarInfo(f"{number:03d}.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"word"))
whole = Path("whole.tar").read_bytes()
fifth = 4 * 2 * BLOCK
damaged = bytearray(whole)
damaged[fifth] ^= 1
Path("damaged.tar").write_bytes(damaged)
Path("cut.tar").write_bytes(whole[: fifth + BLOCK // 2])
seen = {name: count(f"{name}.tar") for name in ("whole", "damaged", "cut")}
for name, (members, samples) in seen.items():
    print(f"{name:<8} {members} members by tarfile, {samples} samples by webdataset, no error")
sys.exit(seen != {"whole": (10, 10), "damaged": (4, 4), "cut": (4, 4)})
PY
