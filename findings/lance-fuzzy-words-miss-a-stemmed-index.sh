#!/usr/bin/env bash
# Lance: in a text index as it is built by default, a fuzzy search finds less than an exact one.
#
# One would guess: `fuzziness=1` finds what the exact word finds, and what is one letter away from it.
# What happens: the index stores stems, and an exact query is stemmed in the same way. A query with `fuzziness` of 1 or 2 is
#   not: "running" is compared with the stored "run", four letters away, and finds nothing at all; "abandoned" and
#   "strawberries" need 2. A misspelt "hause" is one letter from "house", but that is stored as "hous". Without
#   stemming (`stem=False`) all of them are found. And `fuzziness=None`, by its docstring up to 2 by the length of the word,
#   is exact in both. LanceDB's index of default options does the same.
# Why it matters: a search box gets `fuzziness=1` to forgive typing errors, and loses the answers to many words that are spelt
#   right; nothing is an error, and a test with "dog" passes. Ask exactly, and fuzzily only where that finds nothing, or
#   build the index with `stem=False`.
# Versions: pylance 13.0.0, lancedb 0.40.0, pyarrow 26.0.1, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylance==13.0.0 lancedb==0.40.0 pyarrow==26.0.1
cd "$work"
LANCE_LOG=error "$work/venv/bin/python" - <<'PY'
import sys

import lance
import lancedb
import pyarrow as pa
from lance.query import MatchQuery
from lancedb.index import FTS
from lancedb.query import MatchQuery as LanceDBMatchQuery

captions = ["a dog", "a house", "two dogs running", "strawberries", "an abandoned station"]
asked = ["dog", "house", "running", "strawberries", "abandoned", "station"]
misspelt = ["hause", "runing", "strawberies", "statiom"]


def found(stem):
    name = f"stem-{stem}.lance"
    dataset = lance.write_dataset(pa.table({"caption": captions}), name)
    options = {} if stem else {"stem": False}  # stemming is the default
    dataset.create_scalar_index("caption", "INVERTED", **options)

    def count(word, fuzziness):
        query = MatchQuery(word, "caption", fuzziness=fuzziness)
        return len(lance.dataset(name).to_table(full_text_query=query))

    right = {fuzziness: [word for word in asked if count(word, fuzziness)] for fuzziness in (0, 1, 2)}
    wrong = {fuzziness: [word for word in misspelt if count(word, fuzziness)] for fuzziness in (0, 1, 2, None)}
    for fuzziness, words in right.items():
        print(f"stem={stem}, fuzziness={fuzziness}, spelt right: finds {words} of {len(asked)} words")
    for fuzziness, words in wrong.items():
        print(f"stem={stem}, fuzziness={fuzziness}, misspelt: finds {words} of {len(misspelt)} words")
    return right, wrong


everything, nothing = asked, []
ok = found(True) == (
    {0: everything, 1: ["dog", "house", "station"], 2: [word for word in asked if word != "running"]},
    {0: nothing, 1: ["statiom"], 2: ["hause", "statiom"], None: nothing},
)
every = misspelt
ok &= found(False) == ({0: everything, 1: everything, 2: everything}, {0: nothing, 1: every, 2: every, None: nothing})

table = lancedb.connect(".").create_table("t", pa.table({"caption": captions}))
table.create_index("caption", config=FTS())
for fuzziness, expected in ((0, ["two dogs running"]), (1, [])):
    rows = table.search(LanceDBMatchQuery("running", "caption", fuzziness=fuzziness)).to_list()
    seen = [row["caption"] for row in rows]
    print(f"LanceDB, running, fuzziness={fuzziness}: {seen}")
    ok &= seen == expected
sys.exit(0 if ok else "fuzzy words are found otherwise now")
PY
