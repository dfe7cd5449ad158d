#!/usr/bin/env bash
# Lance: a commit that conflicts with a newer version is accepted once that version was cleaned up.
#
# One would guess: a writer that read version 5 and commits now is checked against every commit since, so what was
#   refused a moment ago stays refused.
# What happens: two `Update`s that remove the same (even a non-existent) fragment id conflict, and the later one is
#   refused. After `cleanup_old_versions` took the version of the earlier one away, the very same stale transaction
#   lands: cleaned versions are passed over when conflicts are looked for. A tag on that version keeps it, and the
#   refusal.
# Why it matters: a lease or fence that rests on conflict detection (a paused writer that wakes up late) holds only as
#   long as no cleanup ran meanwhile, unless the fencing version is tagged.
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

import lance
import lance.commit
import pyarrow as pa

NOBODYS_FRAGMENT = 2**32 - 1


def late_commit(name: str, *, cleanup: bool, tag: bool) -> str:
    """A second holder fences, the table goes on, and then the first holder's transaction arrives."""
    dataset = lance.write_dataset(pa.table({"n": [0]}), f"{name}.lance")

    def update(read_version: int) -> lance.Transaction:
        return lance.Transaction(read_version, lance.LanceOperation.Update(removed_fragment_ids=[NOBODYS_FRAGMENT]))

    holder = lance.dataset(dataset.uri)  # opened before, as by a process that then slept
    stale = update(holder.version)
    fenced = lance.LanceDataset.commit(dataset.uri, update(dataset.version))
    if tag:
        fenced.tags.create("fence", fenced.version)
    lance.write_dataset(pa.table({"n": [1]}), dataset.uri, mode="append")
    if cleanup:
        lance.dataset(dataset.uri).cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    try:
        lance.LanceDataset.commit(holder, stale)
    except lance.commit.CommitConflictError:
        return "refused"
    return "landed"


seen = {
    "versions kept": late_commit("kept", cleanup=False, tag=False),
    "cleaned up": late_commit("cleaned", cleanup=True, tag=False),
    "cleaned up, fence tagged": late_commit("tagged", cleanup=True, tag=True),
}
for case, what in seen.items():
    print(f"{case:<26} the late commit {what}")
sys.exit(seen != {"versions kept": "refused", "cleaned up": "landed", "cleaned up, fence tagged": "refused"})
PY
