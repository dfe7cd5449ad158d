"""What there is to do: a pure function of the units a survey found and the ledger. No I/O.

Units are named by content, so a unit that the ledger knows is done, whatever was added around it. Units of a changed
object replace that object's old ones together: the old rows leave in the commit that brings the last of the new.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from clipmill.jobs.table.ledger import Ledger, live
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
from clipmill.schemas.unit.units import IMPORTED, WorkUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """`old` units leave the table in the commit that completes `new`. An empty `new`: they leave at once."""

    old: frozenset[str]
    new: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Printable and frozen. `gone` are units of sources that the listing no longer shows; they stay, unless their
    content turns up at a new place. Where the listing hints at that, `moved` says: new unit id -> gone unit id.
    `again`: a guess for estimates; what is computed again is decided by each picture. `ledger`: what it was made by."""

    todo: tuple[WorkUnit, ...]
    done: tuple[str, ...]
    replacements: tuple[Replacement, ...] = ()
    gone: tuple[LedgerEntry, ...] = ()
    known: dict[str, dict[str, str]] = field(default_factory=dict)  # unit id -> {content hash: old unit id}
    moved: dict[str, str] = field(default_factory=dict)
    kin: dict[str, tuple[str, ...]] = field(default_factory=dict)  # unit id -> old units that may hold its pictures
    again: dict[str, int] = field(default_factory=dict)  # unit id -> samples of it that seem to have their vectors
    ledger: Ledger = field(default_factory=dict, repr=False, compare=False)

    @property
    def changed(self) -> int:
        return sum(len(r.new) for r in self.replacements)

    @property
    def new(self) -> int:
        return len(self.todo) - self.changed - len(self.moves)

    @property
    def moves(self) -> dict[str, LedgerEntry]:
        """New unit -> the gone unit it seems to have been, for those that replace nothing at their new place."""
        replacing = {new for group in self.replacements for new in group.new}
        gone = {entry.unit_id: entry for entry in self.gone}
        return {new: gone[old] for new, old in self.moved.items() if new not in replacing}

    @property
    def replaced(self) -> frozenset[str]:
        """Units that leave in this run, as far as nothing fails and nothing is an alias."""
        return frozenset().union(*(group.old for group in self.replacements))

    @property
    def left(self) -> int:
        """Units of places that are listed and have none of their samples any more; their rows leave."""
        return sum(len(group.old) for group in self.replacements if not group.new)

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.todo)

    @property
    def num_samples(self) -> int | None:
        """Samples still to do, None where a unit does not know."""
        counts = [unit.num_samples for unit in self.todo]
        return None if any(c is None for c in counts) else sum(c for c in counts if c is not None)

    def without(self, unit_ids: Collection[str]) -> "Plan":
        """The same plan, in which these of the `gone` units leave the table. One that seems to have moved is passed
        over: its rows leave with the commit that brings its content at the new place."""
        leaving = frozenset(unit_ids) & {entry.unit_id for entry in self.gone} - set(self.moved.values())
        if not leaving:
            return self
        return replace(
            self,
            replacements=(*self.replacements, Replacement(old=leaving, new=frozenset())),
            gone=tuple(entry for entry in self.gone if entry.unit_id not in leaving),
        )


def make_plan(units: Iterable[WorkUnit], latest: Ledger, redo: frozenset[str] = frozenset()) -> Plan:
    """`redo`: units to do again although the ledger has them (a duplicate's winner has left, say)."""
    planned = {unit.unit_id: unit for unit in units}
    alive = live(latest)
    redo |= {i for i, e in alive.items() if e.moved}  # back at its place, it is a unit like any other
    # The unit may be listed under a newer name by now, as an alias of the one that has the rows.
    redo |= {i for i, e in alive.items() if e.state == LedgerState.ALIAS and e.alias_of in redo}
    todo = [unit for unit_id, unit in planned.items() if unit_id not in alive or unit_id in redo]
    done = tuple(unit_id for unit_id in planned if unit_id in alive and unit_id not in redo)
    kept_by_alias = {
        e.alias_of for i, e in alive.items() if i in planned and i not in redo and e.state == LedgerState.ALIAS
    }
    stale = [
        entry
        for unit_id, entry in alive.items()
        if entry.state == LedgerState.COMMITTED
        and (unit_id not in planned or unit_id in redo)
        and unit_id not in kept_by_alias
    ]
    groups, gone = _replacements(stale, todo, planned.values())
    known = {new: contents for new, contents in _known_content(groups, alive).items() if new not in redo}
    moved = _moved(gone, [unit for unit in todo if unit.unit_id not in redo], alive)
    kin, again = _kin(groups, [unit for unit in todo if unit.unit_id not in redo], alive)
    return Plan(
        todo=tuple(todo),
        done=done,
        replacements=groups,
        gone=tuple(gone),
        known=known,
        moved=moved,
        kin=kin,
        again={**again, **{new: alive[old].seen for new, old in moved.items()}},
        ledger=latest,
    )


def _replacements(
    stale: Sequence[LedgerEntry], todo: Sequence[WorkUnit], planned: Iterable[WorkUnit]
) -> tuple[tuple[Replacement, ...], list[LedgerEntry]]:
    stale_by_uri: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in stale:
        stale_by_uri[entry.uri].append(entry)
    todo_by_uri: dict[str, list[WorkUnit]] = defaultdict(list)
    for unit in todo:
        if unit.uri in stale_by_uri:
            todo_by_uri[unit.uri].append(unit)
    listed = {unit.uri for unit in planned if unit.uri in stale_by_uri}
    groups: list[Replacement] = []
    gone: list[LedgerEntry] = []
    for uri, olds in stale_by_uri.items():
        if uri not in listed:
            gone += [old for old in olds if old.format != IMPORTED]  # no job's source ever listed those
        elif olds[0].format != "files":
            new = frozenset(u.unit_id for u in todo_by_uri[uri])
            groups.append(Replacement(old=frozenset(o.unit_id for o in olds), new=new))
        else:
            groups += _overlapping(olds, todo_by_uri[uri])
    return tuple(groups), gone


def _overlapping(olds: Sequence[LedgerEntry], news: Sequence[WorkUnit]) -> list[Replacement]:
    """Connected runs of overlapping key ranges (start, end] of a folder that is listed. Where nothing new overlaps old
    ranges, such as those after the folder's last picture, all pictures of them have left it: so do their rows."""
    spans: list[tuple[str, str, str, bool]] = sorted(
        [(e.start, e.end, e.unit_id, True) for e in olds] + [(u.start, u.end, u.unit_id, False) for u in news]
    )
    groups: list[Replacement] = []
    run: list[tuple[str, str, str, bool]] = []
    reach = ""

    def close() -> None:
        old = frozenset(s[2] for s in run if s[3])
        if old:
            groups.append(Replacement(old=old, new=frozenset(s[2] for s in run if not s[3])))

    for span in spans:
        if run and span[0] >= reach:
            close()
            run = []
            reach = ""
        run.append(span)
        reach = max(reach, span[1])
    if run:
        close()
    return groups


def _moved(gone: Sequence[LedgerEntry], todo: Sequence[WorkUnit], alive: Ledger) -> dict[str, str]:
    """New unit -> gone unit, where the store says that they are equal: the same etag and range. One to one.

    Etags of one content may differ (uploads in parts), so a unit without a hint may have moved too.
    """
    if not gone or not todo:
        return {}
    names: dict[str, list[LedgerEntry]] = defaultdict(list)  # a unit may be listed under a newer etag, as an alias
    for entry in alive.values():
        names[entry.alias_of if entry.state == LedgerState.ALIAS else entry.unit_id].append(entry)
    olds: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for old in gone:
        for entry in names[old.unit_id]:
            olds[entry.format, entry.etag, entry.start, entry.end].append(old.unit_id)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for unit in todo:
        for old_id in olds.get((unit.format, unit.etag, unit.start, unit.end), ()):
            if old_id not in taken:
                found[unit.unit_id] = old_id
                taken.add(old_id)
                break
    return found


def _kin(
    groups: Sequence[Replacement], todo: Sequence[WorkUnit], alive: Ledger
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """For slices of a Lance table that was compacted: the units that had these rows, told by how many rows come before,
    and how many they had of them.

    Compaction keeps their order. What was deleted meanwhile shifts them, for which a neighbour on each side is named
    too. Whether a picture is the same is decided by its hash, so a wrong guess costs its embedding and nothing else.
    A slice at its old place with as many rows was renamed by what its columns hold, so nothing is guessed to be known.
    """
    kin: dict[str, tuple[str, ...]] = {}
    again: dict[str, int] = {}
    for group in groups:
        olds = sorted((alive[old] for old in group.old if alive[old].format == "lance"), key=lambda e: _place(e.start))
        ends = list(accumulate(old.seen for old in olds))
        places = {(old.start, old.seen) for old in olds}
        at = 0
        for unit in todo if olds else ():
            if unit.unit_id not in group.new or unit.num_samples is None:
                continue
            first, last = bisect_right(ends, at), bisect_left(ends, at + unit.num_samples)
            if (unit.start, unit.num_samples) not in places:
                again[unit.unit_id] = max(0, min(unit.num_samples, ends[-1] - at))
            at += unit.num_samples
            near = olds[max(0, first - 1) : last + 2]
            if near:
                kin[unit.unit_id] = tuple(old.unit_id for old in near)
    return kin, again


def _place(start: str) -> tuple[int, ...]:
    """`fragment:row` of a slice, for sorting."""
    return tuple(int(part) for part in start.split(":"))


def _known_content(groups: Sequence[Replacement], alive: Ledger) -> dict[str, dict[str, str]]:
    """For each replacing unit, the contents it may turn out to be equal to.

    Only where one old unit faces one new one: then equality means that nothing of the source changed.
    """
    known: dict[str, dict[str, str]] = {}
    for group in groups:
        if len(group.old) == len(group.new) == 1 and group.old != group.new:
            (old,), (new,) = group.old, group.new
            if alive[old].content_hash:
                known[new] = {alive[old].content_hash: old}
    return known
