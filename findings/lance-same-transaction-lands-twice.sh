#!/usr/bin/env bash
# Lance: the same transaction can be committed twice, and its rows are then there twice.
#
# One would guess: a transaction carries a UUID, so committing the very same object again, after an answer that was lost, is
#   refused or does nothing.
# What happens: the second commit lands as a new version. Two fragments then name one data file, every row of it is there
#   twice, and `validate` says nothing. So with Append as with Update.
# Why it matters: "commit result is unknown" (a store that did not answer) cannot be mended by trying again. Look first
#   whether it landed: read the newer versions' transactions, or put a name of your own into the transaction's properties.
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
import lance.fragment
import pyarrow as pa


def append(fragments):
    return lance.LanceOperation.Append(fragments)


def update(fragments):
    return lance.LanceOperation.Update(new_fragments=fragments)


def rows_after_two_commits(name: str, operation) -> tuple[int, int]:
    """Rows of a table of one row, to which the same transaction of two rows was committed twice; and its data files."""
    dataset = lance.write_dataset(pa.table({"n": [0]}), name)
    fragments = lance.fragment.write_fragments(pa.table({"n": [1, 2]}), name)
    transaction = lance.Transaction(dataset.version, operation(fragments))
    for _ in range(2):
        dataset = lance.LanceDataset.commit(name, transaction)
    dataset.validate()
    files = {file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files}
    return dataset.count_rows(), len(files)


seen = {operation.__name__: rows_after_two_commits(operation.__name__, operation) for operation in (append, update)}
for name, (rows, files) in seen.items():
    print(f"{name}: one row, and a transaction of two rows committed twice: {rows} rows in {files} data files")
sys.exit(set(seen.values()) != {(5, 2)})
PY
