#!/usr/bin/env bash
# Lance: an NGRAM index hides rows from `contains` wherever the needle has no three ASCII letters or digits in a row.
#
# One would guess: an index makes `contains` faster and leaves its answer alone; what it cannot narrow down is scanned, as
#   needles of one or two characters are.
# What happens: trigrams are made of runs of ASCII letters and digits only (é counts as e). A longer needle without such a
#   run ("50 mm", "2 x 4", a.b.c.d, any word of Cyrillic or Japanese) has none, and the index then answers "no row", without
#   an error. LIKE '%50 mm%' on the same column finds them. Rows that are not indexed yet are found, until they are, and
#   `contains(c, '50 mm') AND contains(c, 'cat')` finds rows that `contains(c, '50 mm')` alone does not.
# Why it matters: captions hold sizes, initials, file names and other scripts. Counts by such words drop to 0 when somebody
#   adds an index, and creep up as rows arrive. Ask with LIKE, or with `use_scalar_index=False`.
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
import pyarrow as pa

texts = ["a cat at 50 mm", "a beam of 2 x 4", "scan a.b.c.d", "кошка зимой", "日本語の猫", "plain cat"]
captions = pa.table({"caption": texts})
dataset = lance.write_dataset(captions, "t.lance")
dataset.create_scalar_index("caption", "NGRAM")


def count(where, **how):
    return lance.dataset("t.lance").scanner(columns=["caption"], filter=where, **how).to_table().num_rows


seen = {}
for needle in ("50 mm", "2 x 4", "a.b.c.d", "кошка", "日本語", "50", "日本", "cat"):
    where = f"contains(caption, '{needle}')"
    like = count(f"caption LIKE '%{needle}%'")
    seen[needle] = (count(where, use_scalar_index=False), count(where), like)
    print(f"{needle!r}: contains finds {seen[needle][0]} without the index, {seen[needle][1]} with it; LIKE with it {like}")

alone, both = "contains(caption, '50 mm')", "contains(caption, '50 mm') AND contains(caption, 'cat')"
narrowed = (count(alone), count(both))
print(f"50 mm: {narrowed[0]} rows; 50 mm and cat: {narrowed[1]}")
lance.write_dataset(captions, "t.lance", mode="append")
appended = count(alone)
lance.dataset("t.lance").optimize.optimize_indices()
later = (appended, count(alone))
print(f"50 mm: {later[0]} after the same rows were appended, {later[1]} once these are indexed")

lost = {needle: (1, 0, 1) for needle in ("50 mm", "2 x 4", "a.b.c.d", "кошка", "日本語")}
right = {"50": (1, 1, 1), "日本": (1, 1, 1), "cat": (2, 2, 2)}
ok = seen == lost | right and narrowed == (0, 1) and later == (1, 0)
sys.exit(0 if ok else "contains answers otherwise now")
PY
