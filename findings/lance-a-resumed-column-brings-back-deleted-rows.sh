#!/usr/bin/env bash
# Lance: `add_columns` that resumes from a checkpoint brings back rows deleted in between, and fills another column.
#
# One would guess: the checkpoint keeps the function's results; what was deleted, updated or added to the table between the run
#   that failed and the one that resumes stays so, or the second is refused as made for an older version.
# What happens: of every fragment that was finished the checkpoint keeps its whole metadata as it then was, found again by
#   the fragment's number alone, and the resumed run commits that over what the fragment is now. Its deletions are gone: 50
#   deleted rows are there again, and a row that was updated is there twice. Where a column `w` was added in between, `w`
#   holds the numbers that were computed for `v`, and `v` is null, since both were given the same field id; a
#   column that was dropped in between lends its values to `v`. There is no conflict, and the checkpoint is then removed. Only
#   a deletion in the fragment that was half done is an error; after a compaction, which gives new numbers, all is made anew.
# Why it matters: a column of embeddings takes days and does fail; the table is used meanwhile, and what somebody asked to have
#   deleted is searched again. Let nobody write between the runs, or remove the checkpoint where the version is not the old one.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import pathlib
import shutil
import sys

import lance
import pyarrow as pa

ROWS, EACH = 400, 100


def tens(fail_from=None):
    """A function that makes v = 10 x id, and fails at a batch that begins at `fail_from` or later."""

    @lance.batch_udf(output_schema=pa.schema({"v": pa.int64()}), checkpoint_file="checkpoint")
    def function(batch):
        if fail_from is not None and batch["id"][0].as_py() >= fail_from:
            raise RuntimeError("no memory")
        return pa.record_batch({"v": [10 * row for row in batch["id"].to_pylist()]})

    return function


def resumed(between, before=lambda dataset: None):
    """Rows before a run resumes that failed in its third fragment, the table after it, and v by id."""
    shutil.rmtree("t.lance", ignore_errors=True)
    pathlib.Path("checkpoint").unlink(missing_ok=True)
    before(lance.write_dataset(pa.table({"id": range(ROWS)}), "t.lance", max_rows_per_file=EACH))
    try:
        lance.dataset("t.lance").add_columns(tens(fail_from=250), batch_size=50)
    except OSError:
        pass
    between(lance.dataset("t.lance"))
    rows = lance.dataset("t.lance").count_rows()
    lance.dataset("t.lance").add_columns(tens(), batch_size=50)
    table = lance.dataset("t.lance").to_table()
    return rows, table, dict(zip(table["id"].to_pylist(), table["v"].to_pylist()))


def add_w(dataset):
    dataset.add_columns({"w": "-1 - id"})


ok = True
rows, table, v = resumed(lambda dataset: None)
right = {row: 10 * row for row in range(ROWS)}
print(f"nothing happens in between: {rows} rows, {table.num_rows} after resuming, v right: {v == right}")
ok &= v == right

rows, table, v = resumed(lambda dataset: dataset.delete("id < 50"))
print(f"the rows with id < 50 are deleted: {rows} rows, {table.num_rows} after resuming, id 7 among them: {7 in v}")
ok &= (rows, table.num_rows, 7 in v) == (350, 400, True)

rows, table, v = resumed(lambda dataset: dataset.update({"id": "1005"}, where="id = 5"))
print(f"id 5 becomes 1005: {rows} rows, {table.num_rows} after resuming, both there: {5 in v and 1005 in v}")
ok &= (rows, table.num_rows, 5 in v and 1005 in v) == (400, 401, True)

rows, table, v = resumed(add_w)
w = dict(zip(table["id"].to_pylist(), table["w"].to_pylist()))
nulls = table["v"].null_count
print(f"w = -1 - id is added: of id 7 w is {w[7]}, v {v[7]}; of id 307 w is {w[307]}, v {v[307]}; v is null {nulls} times")
ok &= [w[7], v[7], w[307], v[307], nulls] == [70, None, -308, 3070, 200]

rows, table, v = resumed(lambda dataset: dataset.drop_columns(["w"]), before=add_w)
print(f"w = -1 - id, there before, is dropped: of id 7 v is {v[7]}; of id 307 {v[307]}")
ok &= (v[7], v[307]) == (-8, 3070)

rows, table, v = resumed(lambda dataset: dataset.optimize.compact_files())
print(f"the fragments are compacted: {rows} rows, {table.num_rows} after resuming, v right: {v == right}")
ok &= v == right
print(f"the checkpoint is still there: {pathlib.Path('checkpoint').exists()}")
ok &= not pathlib.Path("checkpoint").exists()
try:
    resumed(lambda dataset: dataset.delete("id = 205"))
    ok = False
except OSError as error:
    print("a row of the fragment that was half done is deleted:", str(error).partition(", ")[0])
sys.exit(0 if ok else "a resumed column does otherwise now")
PY
