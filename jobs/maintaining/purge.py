"""`clipmill delete --purge`: what was deleted on request leaves the disk too.

A deleted row's bytes stay in its data file until a compaction writes the file anew, in indices until they are built
anew, and in old versions until these are removed; a tag keeps its version. So: the tags in the way are named before
anything is done, fragments with deleted rows are rewritten, indices rebuilt, what the tables beside the rows may quote
is blanked, and then all versions but the newest leave, and the files that no version names. Unlike maintenance this
keeps no day: a search that began before it may fail once.

What stays: the tombstones themselves (id, address, hash of the bytes), ids and addresses in the ledger and the rejects,
and whatever the store keeps of removed objects by itself (versioned buckets, snapshots, backups).
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from clipmill.jobs.committing.commit import IDS_PER_FILTER, ids_filter
from clipmill.jobs.committing.compaction import CACHE_BYTES, compaction, tasks_of
from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.maintaining.maintain import Say
from clipmill.jobs.maintaining.needed import same_rows
from clipmill.jobs.maintaining.orphans import orphans, store_clock_s
from clipmill.jobs.table import tombstones
from clipmill.jobs.table.errors import is_conflict
from clipmill.jobs.table.readers import FENCE_TAG, LIVE, tags_of
from clipmill.jobs.table.tables import MAX_CONFLICTS, SIDE_TABLES, Tables
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.tombstones import Tombstones
from clipmill.workers.store.storage import list_objects
from clipmill.workers.store.sweep import remove

CUT = 400  # characters that a summary keeps of such a text; the address may be cut off
_OWN_WORDS = (Reason.DELETED, Reason.DUPLICATE_ID)  # whose details quote nothing of the sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What left the disk. `moved_tags` named the same rows before. `left`: what could not be removed yet, and why."""

    fragments_rewritten: int = 0
    indices_rebuilt: int = 0
    details_blanked: int = 0
    versions_removed: int = 0
    bytes_removed: int = 0
    files_removed: int = 0
    dropped_tags: list[str] = field(default_factory=list)
    moved_tags: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def refuse_tags(tables: Tables, leaving: Tombstones, *, drop: bool) -> list[str]:
    """Names of the tags in the way; UserError that names them unless they may be dropped. Nothing is changed here."""
    found = tags_in_the_way(tables, leaving)
    if found and not drop:
        hint = (
            "delete without --purge and publish; then `clipmill delete TABLE --purge --drop-tags`, after which there "
        )
        hint += f"is no way back to what readers saw before; or drop them now with --drop-tags, {LIVE} among them"
        other = "drop them with --drop-tags if nobody needs these versions"
        raise UserError(
            f"tags keep versions that hold what is to be purged: {named_tags(found)}", hint if LIVE in found else other
        )
    return sorted(found)


def named_tags(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} (version {version})" for name, version in sorted(found.items()))


def tags_in_the_way(tables: Tables, leaving: Tombstones) -> dict[str, int]:
    """Tags, with their versions, that keep what was deleted before, or is `leaving`."""
    rows = tables.open()
    before = tombstones.read_tombstones(tables)
    first = _first_delete(tables)
    found = {}
    for name, tag in tags_of(rows).items():
        version = int(tag["version"])
        if name == FENCE_TAG or (not len(leaving) and same_rows(rows, version)):
            continue
        if _keeps(tables, version, (before, leaving), first):
            found[name] = version
    return found


def purge(tables: Tables, lease: Lease, *, drop: list[str], say: Say) -> Purged:
    """Everything that was deleted on request so far. Under both leases; killed between two steps, it is run again.
    `drop`: the tags that go. Raises LeaseLost."""
    rows = tables.open()
    for name in drop:
        lease.check()
        say(f"dropping the tag {name}")
        rows.tags.delete(name)
    rows = tables.open()
    moving = [name for name, tag in tags_of(rows).items() if _is_moved(rows, name, int(tag["version"]))]
    say("rewriting fragments with deleted rows")
    rewritten = _rewrite(tables, lease)
    rebuilt = _rebuild_indices(tables, lease, say)
    blanked = _blank(tables, lease)
    lease.fence()
    rows = tables.open()
    lease.check()
    for name in moving:
        rows.tags.update(name, rows.version)
    say("removing old versions and files")
    versions, size = _remove_versions(tables, lease)
    files, left = _remove_files(tables, lease)
    return Purged(
        fragments_rewritten=rewritten,
        indices_rebuilt=rebuilt,
        details_blanked=blanked,
        versions_removed=versions,
        bytes_removed=size,
        files_removed=files,
        dropped_tags=drop,
        moved_tags=moving,
        left=left,
    )


def _is_moved(rows: Any, name: str, version: int) -> bool:
    return name != FENCE_TAG and same_rows(rows, version)


def _first_delete(tables: Tables) -> float:
    """The version at which rows left on request for the first time, as far as the ledger says; infinity for none."""
    units = tables.open("units")
    if "deleted_by" not in units.schema.names:
        return math.inf
    where = "deleted_by IS NOT NULL AND deleted_by != ''"
    versions = units.to_table(columns=["table_version"], filter=where)["table_version"].to_pylist()
    return min(versions, default=math.inf)


def _keeps(tables: Tables, version: int, stones: tuple[Tombstones, ...], first_delete: float) -> bool:
    """Whether a version's files hold deleted rows: as rows, behind deletion marks, or in an index older than that."""
    rows = tables.open(version=version, cache_bytes=CACHE_BYTES)
    if any(fragment.metadata.deletion_file is not None for fragment in rows.get_fragments()):
        return True
    if version >= first_delete and rows.describe_indices():
        return True
    asked = [some for some in stones if len(some)]
    for batch in rows.scanner(columns=["id", "uri", "image_hash"]).to_batches() if asked else ():
        names = ("id", "uri", "image_hash")
        for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            if any(some.holds(*row) for some in asked):
                return True
    return False


def _rewrite(tables: Tables, lease: Lease) -> int:
    """Compact until no fragment has deleted rows; one commit a task. How many fragments were read."""
    count = 0
    for _ in range(MAX_CONFLICTS):
        rows = tables.open(cache_bytes=CACHE_BYTES)
        dirty = [f.fragment_id for f in rows.get_fragments() if f.metadata.deletion_file is not None]
        if not dirty:
            return count
        clean = [f.fragment_id for f in rows.get_fragments() if f.fragment_id not in set(dirty)]
        for task in tasks_of(rows, materialize_deletions_threshold=0.0, excluded_fragment_ids=clean):
            done = task.execute(rows)
            lease.check()
            try:
                compaction().commit(tables.open(), [done])
            except OSError as error:
                if not is_conflict(error):
                    raise
                break  # plan anew
            count += len(task.fragments)
    raise ClipmillError(
        "fragments with deleted rows could not be rewritten", "something else rewrites them; run it again"
    )


def _rebuild_indices(tables: Tables, lease: Lease, say: Say) -> int:
    """All that are there, from the rows that are left; what an interrupted build had noted goes first."""
    lease.check()
    remove(_files(tables, "_clipmill"), tables.storage)
    indices = tables.open().describe_indices()
    if not indices:
        return 0
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    say("building the indices anew")
    kinds = {"IVF_HNSW_SQ": "hnsw_sq", "IVF_RQ": "ivf_rq"}
    vectors = {i.field_names[0]: kinds.get(_kind(tables, i.name), "auto") for i in indices if _is_vector(tables, i)}
    table = f"{tables.database}/{tables.name}"
    for kind in sorted(set(vectors.values())) or ["none"]:
        names = tuple(name for name, one in vectors.items() if one == kind)
        options = IndexOptions(kind=kind, columns=names, rebuild=True, measure_recall=False)  # type: ignore[arg-type]
        build_index(table, options, tables.storage, tell=lambda _: None)
    return len(indices)


def _is_vector(tables: Tables, index: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(tables.open().schema.field(index.field_names[0]).type))


def _kind(tables: Tables, name: str) -> str:
    return str(tables.open().stats.index_stats(name)["index_type"]).upper()


def _blank(tables: Tables, lease: Lease) -> int:
    """Details of rejects and summaries of runs that may quote a deleted sample: a caption that could not be read, a
    value that did not fit its column. How many."""
    ids, uris = set(), set()
    for batch in tombstones.counted(tables):
        ids.update(batch.column("id").to_pylist())
        uris.update(batch.column("uri").to_pylist())
    lease.check()
    count = 0
    rejects = tables.open("rejects")
    kept = ", ".join(f"'{reason}'" for reason in _OWN_WORDS)
    for column, names in (("id", sorted(ids)), ("uri", sorted(uris))):
        for start in range(0, len(names), IDS_PER_FILTER):
            some = ids_filter(names[start : start + IDS_PER_FILTER]).replace("id IN", f"{column} IN", 1)
            where = f"{some} AND detail != '' AND reason NOT IN ({kept})"
            if rejects.count_rows(where):
                count += int(rejects.update({"detail": "''"}, where=where)["num_rows_updated"])
                rejects = tables.open("rejects")
    return count + _blank_summaries(tables, uris)


def _blank_summaries(tables: Tables, uris: set[str]) -> int:
    """`unread_first` of a run's summary ends in `, at <uri>`."""
    count = 0
    runs = tables.open("runs")
    for row in runs.to_table(columns=["run", "event", "detail"], filter="detail LIKE '%unread_first%'").to_pylist():
        with contextlib.suppress(ValueError):
            detail = json.loads(row["detail"])
            first = detail.get("unread_first") or {}
            mine = [column for column, text in first.items() if len(text) >= CUT or text.rpartition(", at ")[2] in uris]
            if not mine:
                continue
            detail["unread_first"] = {column: text for column, text in first.items() if column not in mine}
            quoted = json.dumps(detail).replace("'", "''")
            where = f"run = '{row['run']}' AND event = '{row['event']}'"
            tables.open("runs").update({"detail": f"'{quoted}'"}, where=where)
            count += 1
    return count


def _remove_versions(tables: Tables, lease: Lease) -> tuple[int, int]:
    """All but the newest, of every table, and those that a tag names."""
    versions = size = 0
    for part in ("", *_side_parts(tables)):
        lease.check()
        done = tables.open(part).cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
        if not part:
            versions = int(done.old_versions)
        size += int(done.bytes_removed)
    return versions, size


def _remove_files(tables: Tables, lease: Lease) -> tuple[int, list[str]]:
    """Files that no version names: data of any age, because no run can commit it any more; indices after a day, because
    `clipmill index` builds beside the lease."""
    now_s, count = store_clock_s(tables), 0
    lease.check()
    for part in ("", *_side_parts(tables)):
        found = orphans(tables, part, now_s=now_s, older_than_s=-math.inf, folders=("data", "_deletions"))
        found += orphans(tables, part, now_s=now_s, folders=("_indices",))
        count += remove((one.uri for one in found), tables.storage)
    young = orphans(tables, "", now_s=now_s, older_than_s=-math.inf, folders=("_indices",))
    left = [f"{counted(len(young), 'file')} of index builds, younger than a day; purge again tomorrow"] if young else []
    if tables.open().branches.list():
        left.append("files that no version names, because the table has branches, which may name them")
    return count, left


def _side_parts(tables: Tables) -> list[str]:
    return [part for part in (*SIDE_TABLES, tombstones.PART) if tables.exists(part)]


def _files(tables: Tables, folder: str) -> Iterator[str]:
    with contextlib.suppress(UserError):  # no such folder
        yield from [one.uri for one in list_objects(f"{tables.place()}/{folder}/", tables.storage)]
