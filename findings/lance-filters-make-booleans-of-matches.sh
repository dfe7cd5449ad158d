#!/usr/bin/env bash
# Lance: `regexp_match(...) IS NOT NULL` passes every row of a filter, though the same words as a column do not.
#
# One would guess: a filter keeps the rows of which its expression is true. `regexp_match` gives a list of the matches, or
#   null where there is none, so `IS NOT NULL` is how one asks in DataFusion whether a pattern occurs.
# What happens: before the filter is planned each call of `regexp_match` is made a boolean ("is coerced to boolean", says a
#   warning on stderr), which is never null: IS NOT NULL keeps all rows, those without a value too, and IS NULL none. The
#   same words as a computed column, or taken by row ids, follow DataFusion. By itself the call is a right filter, and a list
#   as a column.
# Why it matters: a filter that keeps everything looks as if all rows had passed; deleting by it deletes all. A program
#   that filters here and computes there gets two answers. `regexp_like` is a boolean in both places.
# Versions: pylance 13.0.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import lance
import pyarrow as pa

dataset = lance.write_dataset(pa.table({"text": ["abc", "xyz", "", None]}), "t.lance")


def filtered(expression: str) -> int:
    return dataset.count_rows(expression)


def computed(expression: str) -> int:
    values = dataset.scanner(columns={"value": expression}).to_table()["value"].to_pylist()
    return sum(value is True for value in values)


seen = {}
for expression in ("regexp_match(text, 'a') IS NOT NULL", "regexp_match(text, 'a') IS NULL", "regexp_like(text, 'a')"):
    seen[expression] = (filtered(expression), computed(expression))
    print(f"{expression}: as a filter {seen[expression][0]} of 4 rows, as a column {seen[expression][1]}")
alone = "regexp_match(text, 'a')"
print(f"{alone}: as a filter {filtered(alone)} of 4 rows")
sys.exit(list(seen.values()) != [(4, 1), (0, 3), (1, 1)])
PY
