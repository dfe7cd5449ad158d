"""`clipmill maintain TABLE`, and the same inside a night: the table's files stay few and fresh.

In this order: new rows enter the indices, small fragments are merged, the tables beside the rows are tidied, the fence
moves to the newest version (so that its tag never ages), versions that nobody needs leave, and then the files that no
version names. Each step is a commit or a removal of its own: killed between two, the next time goes on. On a full disk
what needs space is left out, and what frees some is done.

Memory holds a batch of rows, a manifest, and the names of suspected orphans; never rows by the table.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from clipmill.jobs.committing import heal
from clipmill.jobs.committing.cleanup import KEEP, LEAST_KEEP, clean
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import CACHE_BYTES, Compactor, tasks_of, tidy_side_tables
from clipmill.jobs.committing.lease import Lease, no_fill_beside
from clipmill.jobs.maintaining.history import cut_ledger, cut_log
from clipmill.jobs.maintaining.needed import SIDE_EVERY, old_versions, same_rows, what_is_needed
from clipmill.jobs.maintaining.orphans import Orphan, orphans, store_clock_s
from clipmill.jobs.running.options import new_run_id
from clipmill.jobs.table import memory, tombstones
from clipmill.jobs.table.errors import NoSpace
from clipmill.jobs.table.readers import LIVE, readers, tags_of
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.schemas.errors import LeaseHeld
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted
from clipmill.workers.store.sweep import remove

COMPACT_S = 600.0  # of one maintenance: what is left then is for the next
MAX_NAMED = 20  # orphans that are named; the rest is counted
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintained:
    """What was done; with `dry_run`, what would be. `indices`: by column, only what was extended or built.
    `versions_removed` and `version_bytes` are of the rows. `orphan_files` names the first few. `cut`: events of the
    ledger and lines of the run log that nothing rests on any more. `left_out`: what there was no space for."""

    table: str
    dry_run: bool = False
    version: int = 0
    rows: int = 0
    fragments_before: int = 0
    fragments: int = 0
    indices: dict[str, str] = field(default_factory=dict)
    versions_removed: int = 0
    version_bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    orphan_files: list[str] = field(default_factory=list)
    healed_units: int = 0
    cut: int = 0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def maintain(
    tables: Tables, lease: Lease, *, say: Say, keep: timedelta = KEEP, compact_s: float = COMPACT_S, healed: int = 0
) -> Maintained:
    """Under the lease, after the fence and after healing. `keep`: the age at which versions of the rows leave, a day at
    least; `compact_s`: how long fragments are merged at most, plus the task under way.

    Where a column is being filled, nothing is merged and no file is removed, and a note says so; so it does of what
    there was no space for. Raises LeaseLost.
    """
    assert keep >= LEAST_KEEP or keep == timedelta(0), "less than a day is for tests that hold the only handle"
    began = time.monotonic()
    notes: list[str] = []
    left_out: list[str] = []
    before = len(tables.open().get_fragments())
    found: list[Orphan] = []
    indices: dict[str, str] = {}
    cut = 0
    with _no_fill_or_a_note(lease, notes, say) as alone:
        with _space_for("new rows entering the indices", left_out):  # first: Lance merges none that one index lacks
            indices = _extend_indices(tables, lease, say)
        with _space_for("merging small fragments", left_out):
            if alone:
                _compact(tables, lease, compact_s, say)
        with _space_for("tidying the ledger and the run log", left_out):
            cut = _cut_history(tables, lease, say)
        with _space_for("moving the fence", left_out):  # it stands at a version that is kept for it
            lease.fence()
        cleaned = clean(tables, lease, say=say, keep=keep, even_today=True)
        if alone:
            say("looking for files that no version names")
            found = all_orphans(tables, now_s=store_clock_s(tables))
            lease.check()
            _name_all(found, say)
            remove((one.uri for one in found), tables.storage)
    rows = tables.open(cache_bytes=CACHE_BYTES)
    return Maintained(
        table=f"{tables.database}/{tables.name}",
        version=int(rows.version),
        rows=int(rows.count_rows()),
        fragments_before=before,
        fragments=len(rows.get_fragments()),
        indices=indices,
        versions_removed=cleaned.versions if cleaned else 0,
        version_bytes=cleaned.size_bytes if cleaned else 0,
        orphans=len(found),
        orphan_bytes=sum(one.size_bytes for one in found),
        orphan_files=[one.uri for one in found[:MAX_NAMED]],
        healed_units=healed,
        cut=cut,
        left_out=left_out,
        notes=[*notes, *_no_space(left_out)],
        seconds=round(time.monotonic() - began, 3),
    )


def maintain_table(
    table: str, storage: Storage, *, say: Say, keep: timedelta = KEEP, dry_run: bool = False
) -> Maintained:
    """By hand: takes the lease, heals, maintains. `dry_run` takes nothing and changes nothing. Raises UserError where
    there is no such table, LeaseHeld where somebody else has it."""
    tables = Tables.at(table, storage)
    tables.open()
    memory.use_little()
    say("looking for what is to do")
    found = all_orphans(tables, now_s=time.time())
    needs = what_is_needed(tables, found, keep=keep)
    if dry_run or not needs:
        return preview(tables, found, needs, keep=keep, dry_run=dry_run)
    seen = readers(tables.open())
    with leased(tables, "maintain", say) as (lease, healed):
        done = maintain(tables, lease, say=say, keep=keep, healed=healed)
        if seen.live is not None and not seen.is_behind and _live_follows(tables, lease, seen.live):
            done = replace(done, notes=[*done.notes, f"readers go on to version {done.version}: the same rows"])
        return done


def _live_follows(tables: Tables, lease: Lease, live: int) -> bool:
    """Readers that saw the newest version see the maintained one, if it has the same rows: merged files and indices
    are theirs too, and nobody is told that they are behind."""
    rows = tables.open()
    if not same_rows(rows, live):
        return False
    lease.check()
    rows.tags.update(LIVE, rows.version)
    return True


@contextlib.contextmanager
def leased(tables: Tables, command: str, say: Say) -> Iterator[tuple[Lease, int]]:
    """The lease, fenced, and how many units were healed under it: what every command needs that changes the rows or
    removes files. What a crash left is entered first, because cleaning could take away what tells it."""
    lease = Lease(tables, new_run_id(), command)
    lease.take(on_wait=say)
    lease.keep(say)
    try:
        tables.ensure_side_tables()
        lease.fence()
        _, healed = heal.heal(tables, Committer(tables, lease))
        yield lease, healed
    finally:
        lease.release(say)


def preview(tables: Tables, found: list[Orphan], needs: list[str], *, keep: timedelta, dry_run: bool) -> Maintained:
    """What `maintain` would do now, as far as looking can tell. Takes no lease and commits nothing."""
    rows = tables.open(cache_bytes=CACHE_BYTES)
    before = len(rows.get_fragments())
    merged = [len(task.fragments) - 1 for task in tasks_of(rows)]
    tagged = {int(tag["version"]) for tag in tags_of(rows).values()}
    leaving = [version for version in old_versions(rows, keep) if version not in tagged]
    return Maintained(
        table=f"{tables.database}/{tables.name}",
        dry_run=dry_run,
        version=int(rows.version),
        rows=int(rows.count_rows()),
        fragments_before=before,
        fragments=before - sum(merged),
        versions_removed=len(leaving) if dry_run else 0,
        orphans=len(found),
        orphan_bytes=sum(one.size_bytes for one in found),
        orphan_files=[one.uri for one in found[:MAX_NAMED]],
        notes=[f"to do: {one}" for one in needs] if needs else ["nothing to do: the table is as it should be"],
    )


def all_orphans(tables: Tables, *, now_s: float) -> list[Orphan]:
    """Of the rows and of the tables beside them."""
    parts = ("", *(part for part in (*SIDE_TABLES, tombstones.PART) if tables.exists(part)))
    return [one for part in parts for one in orphans(tables, part, now_s=now_s)]


def _name_all(found: list[Orphan], say: Say) -> None:
    if found:
        size = counted(sum(one.size_bytes for one in found), "byte")
        say(f"removing {counted(len(found), 'file')} that no version names, {size}:")
    for one in found[:MAX_NAMED]:
        say(f"  {one.uri}")
    if len(found) > MAX_NAMED:
        say(f"  and {len(found) - MAX_NAMED} more")


@contextlib.contextmanager
def _no_fill_or_a_note(lease: Lease, notes: list[str], say: Say) -> Iterator[bool]:
    """Holds the fill lease too; False where a fill is under way."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(no_fill_beside(lease, say))
        except LeaseHeld as error:
            notes.append(f"nothing was merged and no file removed, because a column is being filled: {error.message}")
            yield False
            return
        yield True


@contextlib.contextmanager
def _space_for(what: str, left_out: list[str]) -> Iterator[None]:
    try:
        yield
    except NoSpace:
        left_out.append(what)


def _no_space(left_out: list[str]) -> list[str]:
    what = f"there was no space left for {' and '.join(left_out)}; what nobody needs was removed: run it again, or free"
    return [f"{what} more"] if left_out else []


def _cut_history(tables: Tables, lease: Lease, say: Say) -> int:
    """The tables beside the rows are tidied, and before their small files are merged, history that nobody needs goes:
    a cut alone is not worth a commit."""
    done = 0
    due = {part for part in ("units", "runs") if len(tables.open(part).get_fragments()) >= SIDE_EVERY}
    if due:
        say("tidying the ledger and the run log")
    if "units" in due:
        done += (in_ledger := cut_ledger(tables, lease))
    if "runs" in due:
        done += cut_log(tables, lease)
    tidy_side_tables(tables, lease, every=SIDE_EVERY)
    if "units" in due and in_ledger:
        lease.fence("units")
    return done


def _compact(tables: Tables, lease: Lease, budget_s: float, say: Say) -> None:
    """Passes until there is nothing to merge, somebody else is in the way, or the time is up."""
    say("merging small fragments")
    compactor = Compactor(tables, lease, holds_fill=True)
    deadline = time.monotonic() + budget_s
    while time.monotonic() < deadline:
        lease.check()
        passes = compactor.passes
        compactor.compact()
        if compactor.passes == passes:
            return


def _extend_indices(tables: Tables, lease: Lease, say: Say) -> dict[str, str]:
    """New rows enter the indices that are there; nothing is trained anew unless the rows outgrew the index fourfold."""
    if not tables.open().describe_indices():
        return {}
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    memory.give_back()
    say("updating indices")
    lease.check()
    options = IndexOptions(measure_recall=False)
    report = build_index(f"{tables.database}/{tables.name}", options, tables.storage, tell=lambda _: None)
    done = {**report.scalar, **{one.column: one.done for one in report.vectors}}
    return {column: what for column, what in done.items() if what in ("extended", "built")}
