#!/usr/bin/env bash
# tarfile, webdataset: of two names of one file on disk the second is missing in every sample, without an error.
#
# One would guess: a folder of pictures and captions that is packed with `tarfile` and read with webdataset gives each sample
#   the fields that its files have.
# What happens: of two names of one file (a hard link) Python's tarfile packs the first with its bytes, the second as a
#   member that names the first, and so does tar. webdataset passes over what is no plain file: the second picture has no
#   caption, the third caption no picture, and a sample both of whose files are links is not there. Nothing says so.
# Why it matters: tools against duplicates (fdupes, jdupes, rdfind) and copies that save room (cp -l, rsync --link-dest) put one
#   file under many names, and captions are equal often. Samples are gone, and which ones hangs on the order of packing. Pack
#   with `dereference=True`; tar has --hard-dereference.
# Versions: webdataset 1.0.2, numpy 2.4.6, Python 3.11, Linux. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import os
import pathlib
import sys
import tarfile
import warnings

import webdataset

warnings.simplefilter("ignore")
folder = pathlib.Path("folder")
folder.mkdir()
files = {
    "1.jpg": b"a dog", "1.txt": b"no title",
    "2.jpg": b"a cat", "2.txt": b"no title",
    "3.jpg": b"a dog", "3.txt": b"Rex",
    "4.jpg": b"a dog", "4.txt": b"no title",
}  # fmt: skip
first = {}
for name, data in files.items():
    (folder / name).write_bytes(data)
    if data in first:  # what a tool against duplicates does
        (folder / name).unlink()
        os.link(folder / first[data], folder / name)
    first.setdefault(data, name)


def samples(shard, **options):
    """The fields of each sample that is read from the packed folder."""
    with tarfile.open(shard, "w", **options) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    with tarfile.open(shard) as tar:
        print(f"{shard}: {len(tar.getmembers())} members, {sum(member.islnk() for member in tar)} of them links")
    read = webdataset.WebDataset(shard, shardshuffle=False)
    return {sample["__key__"]: sorted(field for field in sample if not field.startswith("__")) for sample in read}


seen, whole = samples("links.tar"), samples("copies.tar", dereference=True)
print(f"read from links:  {seen}")
print(f"read from copies: {whole}")
both = ["jpg", "txt"]
sys.exit(seen != {"1": both, "2": ["jpg"], "3": ["txt"]} or whole != dict.fromkeys("1234", both))
PY
