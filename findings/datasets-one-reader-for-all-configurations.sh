#!/usr/bin/env bash
# datasets: all configurations of a card are read by one reader, that of the first one's files.
#
# One would guess: each configuration under `configs:` of README.md names its own files, so one may be Lance and one parquet.
# What happens: the reader is chosen by the endings of the first configuration, and opens the files of all others too: a
#   parquet configuration beside a Lance one is "no Lance file". Each alone is read.
# Why it matters: the error blames a sound file of a card that is written as the documentation has it. Keep a data set
#   repository to one format, as `clipmill push --format lance` does.
# Versions: datasets 5.2.0, pylance 14.0.2, pyarrow 26.0.1, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pylance==14.0.2 pyarrow==26.0.1
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" - <<'PY'
import os
import sys

import datasets
import lance
import pyarrow as pa
import pyarrow.parquet as pq

os.makedirs("both/b")
rows = pa.table({"id": ["1", "2"]})
lance.write_dataset(rows, "both/a/train.lance")
pq.write_table(rows, "both/b/0.parquet")
A = "- config_name: a\n  data_files: a/train.lance/**\n"
B = "- config_name: b\n  data_files: b/*.parquet\n"


def read(name: str, *configs: str) -> str:
    with open("both/README.md", "w") as card:
        card.write("---\nconfigs:\n" + "".join(configs) + "---\n")
    datasets.config.HF_DATASETS_CACHE = os.path.join(os.getcwd(), f"cache-{name}-{len(configs)}")
    try:
        return f"{datasets.load_dataset('both', name, split='train').num_rows} rows"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"


seen = {"a of both": read("a", A, B), "b of both": read("b", A, B), "b alone": read("b", B)}
for name, what in seen.items():
    print(f"{name:<10} {what}")
sys.exit(
    (seen["a of both"], seen["b alone"]) != ("2 rows", "2 rows") or "not appear to be a Lance file" not in seen["b of both"]
)
PY
