#!/usr/bin/env bash
# Lance: replacing one column of a fragment needs no file of its own before, and leaves the old values in the old file.
#
# One would guess: `DataReplacement`, "replaces existing datafiles", wants a file that holds exactly that column, and refuses a
#   column that was written together with others; where it does replace, an index on the column goes on answering with
#   the old values, and a cleanup takes the old values away.
# What happens: a file of one column takes the place of that column in a file of three: the old file's field id becomes
#   -2, the rest of it is read as before; it works again and again. The fragment leaves the index, so filters are right at
#   once, and unindexed until `optimize_indices`. After `cleanup_old_versions` the values from before the first replacement
#   still lie in the wide file, readable by whoever opens it, until the fragment is rewritten.
# Why it matters: filling a column of a big table costs only that column. But "overwritten and cleaned up" is not "gone".
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
from lance.file import LanceFileReader, LanceFileWriter

ROWS = 1000
table = pa.table({"id": range(ROWS), "score": [1] * ROWS, "name": ["x"] * ROWS})
dataset = lance.write_dataset(table, "t.lance")
dataset.create_scalar_index("score", "BTREE")
(wide,) = Path("t.lance/data").iterdir()


def replaced(value: int) -> lance.LanceDataset:
    """Commits a file that holds nothing but `score`."""
    now = lance.dataset("t.lance")
    path = Path(f"t.lance/data/score-{value}.lance")
    with LanceFileWriter(str(path.resolve()), pa.schema([now.schema.field("score")])) as writer:
        writer.write_batch(pa.table({"score": [value] * ROWS}))
    like = now.get_fragments()[0].metadata.files[0]
    (field,) = (field.id() for field in now.lance_schema.fields() if field.name() == "score")
    size = path.stat().st_size
    file = lance.fragment.DataFile(path.name, [field], [0], like.file_major_version, like.file_minor_version, size)
    group = lance.LanceOperation.DataReplacementGroup(0, file)
    return lance.LanceDataset.commit(now, lance.LanceOperation.DataReplacement([group]), read_version=now.version)


seen = []
for value in (2, 3):
    now = replaced(value)
    files = [(list(file.fields), list(file.column_indices)) for file in now.get_fragments()[0].metadata.files]
    rows = {old: now.to_table(filter=f"score = {old}").num_rows for old in (1, 2, 3)}
    covered = now.stats.index_stats("score_idx")["num_indexed_rows"]
    seen.append((files, rows, covered))
    print(f"replaced by {value}: fields and columns of the files {files}; rows by score {rows}; in the index {covered}")
lance.dataset("t.lance").cleanup_old_versions(timedelta(0), delete_unverified=True)
left = set(LanceFileReader(str(wide.resolve())).read_all().to_table()["score"].to_pylist()) if wide.exists() else set()
print(f"after a cleanup, scores in the file that was written first: {left}")
lance.dataset("t.lance").delete("id = 0")
lance.dataset("t.lance").optimize.compact_files(materialize_deletions_threshold=0.0)
lance.dataset("t.lance").cleanup_old_versions(timedelta(0), delete_unverified=True)
gone = not wide.exists()
print(f"after the fragment was rewritten and cleaned up, that file is gone: {gone}")
layout = [([0, -2, 2], [0, 1, 2]), ([1], [0])]
sys.exit(seen != [(layout, {1: 0, 2: ROWS, 3: 0}, 0), (layout, {1: 0, 2: 0, 3: ROWS}, 0)] or left != {1} or not gone)
PY
