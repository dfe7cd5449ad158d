#!/usr/bin/env bash
# Lance: a column that was dropped gives its field id to the next one, and rows written for the one arrive in the other.
#
# One would guess: data files name columns by field id so that names may change, hence an id is never used again. Whoever
#   writes fragments by one version and commits them after the columns changed gets an error, or nulls in the new column.
# What happens: the next id is the greatest in use plus one. `b` (id 1) is dropped, `c` is added and is id 1. An Append of
#   fragments with `a` and `b`, committed by the version that they were written against, passes every check, and the values of
#   `b` are those of `c`. An Update with the same fragments is refused ("please retry"), and lands in the wrong column once it
#   is tried again by the newest version. A `restore` sets the ids of columns back, too.
# Why it matters: two embeddings of equal length, one dropped and one added while a slow worker writes, become a column with
#   vectors of both models, and comparing field ids does not tell. Let writers and whoever changes columns exclude each
#   other, and commit by a version that was fixed before one looked whether that still holds.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import sys

import lance
import lance.fragment
import pyarrow as pa

Operation = lance.LanceOperation


def start(uri):
    """A table of a and b, and a slow worker's fragments of one row of it, not committed."""
    dataset = lance.write_dataset(pa.table({"a": [1, 2]}), uri)
    dataset.add_columns(pa.field("b", pa.int64()))
    dataset = lance.dataset(uri)
    late = lance.fragment.write_fragments(pa.table({"a": [3], "b": [30]}), dataset, mode="append")
    return dataset.version, late


def ids(uri):
    return {field.name(): field.id() for field in lance.dataset(uri).lance_schema.fields()}


def committed(uri, version, operation):
    """What the table holds then; the name of the error where it was refused."""
    try:
        found = lance.LanceDataset.commit(uri, lance.Transaction(version, operation)).to_table().to_pydict()
    except OSError as error:
        found = type(error).__name__
    print(f"  {type(operation).__name__} by version {version}: {found}")
    return found


def another_column(uri):
    before = ids(uri)
    lance.dataset(uri).drop_columns(["b"])
    lance.dataset(uri).add_columns(pa.field("c", pa.int64()))
    print(f"{uri}: field ids {before}, later {ids(uri)}; then comes a row of a=3, b=30")
    return before["b"] == ids(uri)["c"]


wrong = {"a": [1, 2, 3], "c": [None, None, 30]}
read, late = start("appended")
ok = another_column("appended")
ok &= committed("appended", read, Operation.Append(late)) == wrong

read, late = start("updated")
ok &= another_column("updated")
ok &= committed("updated", read, Operation.Update(new_fragments=late)) == "CommitConflictError"
ok &= committed("updated", lance.dataset("updated").version, Operation.Update(new_fragments=late)) == wrong

_, late = start("restored")
lance.dataset("restored", version=1).restore()
lance.dataset("restored").add_columns(pa.field("c", pa.int64()))
print(f"restored: b went with a restore; field ids {ids('restored')}")
ok &= committed("restored", lance.dataset("restored").version, Operation.Append(late)) == wrong
sys.exit(0 if ok else "dropped columns keep their ids now")
PY
