"""Whether maintenance would do anything: a look, before the lease is taken, so that where nothing is to do nothing is
committed. And whether two versions of the rows hold the same ones."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.compaction import CACHE_BYTES, tasks_of
from clipmill.jobs.committing.compaction import KEEP as SIDE_KEEP
from clipmill.jobs.committing.lease import FENCE_FRAGMENT
from clipmill.jobs.indexing.build import is_behind
from clipmill.jobs.maintaining.orphans import FOLDERS, Orphan, named
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.readers import FENCE_TAG, tags_of
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.schemas.text.words import counted

MANY_VERSIONS = 10  # older than they need be: then they leave, also where that frees nothing
MANY_SIDE_VERSIONS = 500  # of a table beside the rows: each renewal of a lease is one
SIDE_EVERY = 8  # fragments of a table beside the rows: every night reads them all, and a run adds one for each event
# Changes of a table that change no row.
_QUIET = frozenset({"CreateIndex", "Rewrite", "UpdateConfig"})
# What pylance 13 has no word for, such as the numbers that a compaction reserves for its fragments.
_UNNAMED = "BaseOperation"


def what_is_needed(tables: Tables, found: list[Orphan], *, keep: timedelta) -> list[str]:
    """In words; empty where the table is as maintenance would leave it. `found`: its orphans."""
    return list(_needs(tables, found, keep))


def _needs(tables: Tables, found: list[Orphan], keep: timedelta) -> Iterator[str]:
    rows = tables.open(cache_bytes=CACHE_BYTES)
    if any(tables.open(part, missing_ok=True) is None for part in SIDE_TABLES):
        yield "a table beside the rows is missing"
        return
    if found:
        yield f"{counted(len(found), 'file')} that no version names"
    if heal.needs_healing(tables, read_ledger(tables)):
        yield "commits that are not in the ledger"
    if tasks_of(rows):
        yield "fragments to merge"
    if index_is_behind(rows):
        yield "rows that are in no index"
    if _holds_old_files(tables, rows, keep):
        yield "versions that nobody needs"
    for part in SIDE_TABLES:
        side = tables.open(part, cache_bytes=CACHE_BYTES)
        if len(side.get_fragments()) >= SIDE_EVERY or len(old_versions(side, SIDE_KEEP)) > MANY_SIDE_VERSIONS:
            yield f"small files of {tables.name}__{part}"


def _holds_old_files(tables: Tables, rows: Any, keep: timedelta) -> bool:
    """Whether versions past their time hold back files that the newest does not need, or are many. The fence's version
    is among them: its tag moves on when maintenance runs. Other tags are somebody's wish."""
    tagged = {int(tag["version"]) for name, tag in tags_of(rows).items() if name != FENCE_TAG}
    old = [version for version in old_versions(rows, keep) if version not in tagged]
    if len(old) > MANY_VERSIONS:
        return True
    needed = named(rows, FOLDERS) if old else set()
    return any(named(tables.open(version=one, cache_bytes=CACHE_BYTES), FOLDERS) - needed for one in old)


def index_is_behind(rows: Any) -> bool:
    """Whether an index lacks rows; a table without one needs none."""
    return bool(rows.describe_indices()) and is_behind(rows)


def old_versions(dataset: Any, keep: timedelta) -> list[int]:
    """Older than `keep` by this clock, the newest left out. Lance gives local time without a zone."""
    oldest, newest = datetime.now(UTC) - keep, int(dataset.version)
    times = {int(one["version"]): one["timestamp"].astimezone() for one in dataset.versions()}
    return [version for version, at in times.items() if at < oldest and version != newest]


def same_rows(rows: Any, version: int) -> bool:
    """Whether nothing since that version added, changed or removed a row: only fences, indices and compaction."""
    for later in range(version + 1, int(rows.version) + 1):
        try:
            operation = rows.read_transaction(later).operation
        except (OSError, ValueError):  # its version was cleaned up
            return False
        kind = type(operation).__name__
        is_quiet = kind in _QUIET or (kind == "Update" and _is_fence(operation))
        if not is_quiet and not (kind == _UNNAMED and _same_files(rows, later)):
            return False
    return True


def _is_fence(update: Any) -> bool:
    """Whether it takes away the fragment that no table has, and nothing else happens."""
    only = [int(one) for one in update.removed_fragment_ids] == [FENCE_FRAGMENT]
    return only and not update.updated_fragments and not update.new_fragments


def _same_files(rows: Any, version: int) -> bool:
    """Whether a version has the files of rows and deletions that the one before it has."""
    try:
        one, before = (rows.checkout_version(number) for number in (version, version - 1))
    except (OSError, ValueError):
        return False
    return named(one, ("data", "_deletions")) == named(before, ("data", "_deletions"))
