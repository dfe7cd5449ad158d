#!/usr/bin/env bash
# Lance: with stable row ids, a compacted fragment remembers every fragment that went into it, in each manifest from then on.
#
# One would guess: a thousand small fragments that were appended by one commit and merged into one cost a manifest no more
#   than one fragment: their rows are a range of ids, made in one version.
# What happens: the row ids are a range of a few bytes, but "created at version" and "last updated at version" keep a run for each
#   of the thousand, 10 bytes each, though all say the same version; so 20 bytes for every fragment that ever was, in every
#   manifest that follows. Merging what was merged keeps all of them. Written in one piece, the same rows have one run.
# Why it matters: manifests are written anew by each commit and kept as long as old versions are. A million work units, each a
#   fragment once, are 20 MB of every manifest: some thousand commits of a day are tens of gigabytes, and whoever opens the
#   table reads 20 MB first.
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

ROWS, EACH = 10_000, 10
table = pa.table({"n": range(ROWS)})


def runs(uri: str) -> tuple[int, list[int]]:
    """Fragments, and bytes of their row ids and of their two sequences of versions."""
    told = [fragment.metadata.to_json() for fragment in lance.dataset(uri).get_fragments()]
    sizes = []
    for key in ("row_id_meta", "created_at_version_meta", "last_updated_at_version_meta"):
        sizes.append(sum(len(next(iter(one[key].values()))) for one in told))
    return len(told), sizes


def appended(uri: str, parts: int) -> None:
    """The whole table by one commit, in so many fragments."""
    rows = len(table) // parts
    pieces = []
    for part in range(parts):
        pieces += lance.fragment.write_fragments(table.slice(part * rows, rows), uri, schema=table.schema)
    lance.LanceDataset.commit(uri, lance.LanceOperation.Append(pieces), read_version=lance.dataset(uri).version)


seen = {}
for name, parts in (("whole", 1), ("parts", ROWS // EACH)):
    lance.write_dataset(table.slice(0, 0), name, enable_stable_row_ids=True)
    appended(name, parts)
    lance.dataset(name).optimize.compact_files()
    seen[name] = runs(name)
appended("parts", ROWS // EACH)
lance.dataset("parts").optimize.compact_files()
seen["parts, twice"] = runs("parts")
for name, (fragments, (ids, created, updated)) in seen.items():
    print(f"{name}: {fragments} fragment(s), {ids} bytes of row ids, {created} and {updated} bytes of versions")
few, many, more = (seen[name][1][1] for name in seen)
print(f"a fragment that was merged costs {many * EACH / ROWS:.0f} bytes twice, for good")
sys.exit(not (few < 50 and many >= ROWS // EACH * 8 and more > 1.9 * many and seen["parts"][0] == 1))
PY
