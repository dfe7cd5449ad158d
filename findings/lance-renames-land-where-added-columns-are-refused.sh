#!/usr/bin/env bash
# Lance: renaming and dropping columns lands beside everything, adding and retyping beside next to nothing.
#
# One would guess: changing a column that others use is the dangerous kind of schema change and is refused when somebody else
#   committed meanwhile; adding a column of nulls touches nothing and always lands.
# What happens: with a handle opened before the other commit, `drop_columns` and a rename land after an index build (also one
#   on the column that is renamed), an append, a delete, an update and a compaction. `add_columns`, also of nulls, and a new type are
#   refused after each of those but the index build. A new type after it lands, and the new index is gone without a word.
# Why it matters: a job that adds a column to a table others write to has to retry in a loop, while a rename slips under the
#   feet of whoever is writing. The refusal of `add_columns` is a `CommitConflictError`, that of the new type a plain OSError.
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


def table(start: int, rows: int = 100) -> pa.Table:
    return pa.table({"id": range(start, start + rows), "a": range(rows), "b": range(rows)})


OTHERS = {
    "index build": lambda dataset: dataset.create_scalar_index("a", "BTREE"),
    "append": lambda dataset: lance.write_dataset(table(900, 1), dataset.uri, mode="append"),
    "delete": lambda dataset: dataset.delete("id = 3"),
    "update": lambda dataset: dataset.update({"b": "7"}, where="id = 5"),
    "compaction": lambda dataset: dataset.optimize.compact_files(),
}
CHANGES = {
    "drop b": lambda dataset: dataset.drop_columns(["b"]),
    "rename a": lambda dataset: dataset.alter_columns({"path": "a", "name": "renamed"}),
    "retype a": lambda dataset: dataset.alter_columns({"path": "a", "data_type": pa.int32()}),
    "add nulls": lambda dataset: dataset.add_columns(pa.field("c", pa.int64())),
}


def outcome(change: str, other: str) -> str:
    """The change by a handle that was opened before the other's commit."""
    uri = f"{change} {other}.lance".replace(" ", "-")
    for start in range(0, 300, 100):
        lance.write_dataset(table(start), uri, mode="append" if start else "create")
    stale = lance.dataset(uri)
    OTHERS[other](lance.dataset(uri))
    try:
        CHANGES[change](stale)
    except OSError as error:
        return f"refused ({type(error).__name__})" if "preempted" in str(error) else str(error)
    indices = lance.dataset(uri).describe_indices()
    return "landed" if other != "index build" else f"landed, indices {[name for i in indices for name in i.field_names]}"


seen = {change: {other: outcome(change, other) for other in OTHERS} for change in CHANGES}
for change, outcomes in seen.items():
    print(f"{change:<10}" + "; ".join(f"{other}: {what}" for other, what in outcomes.items()))
rest = {change: {what for other, what in outcomes.items() if other != "index build"} for change, outcomes in seen.items()}
expected = {
    "drop b": {"landed"},
    "rename a": {"landed"},
    "retype a": {"refused (OSError)"},
    "add nulls": {"refused (CommitConflictError)"},
}
indexed = [outcomes["index build"] for outcomes in seen.values()]
kept = [f"landed, indices {columns}" for columns in (["a"], ["renamed"], [], ["a"])]
sys.exit(rest != expected or indexed != kept)
PY
