"""Sources that moved: a unit whose place is gone, and whose content is back under another name.

The listing gives a hint (a new unit with the etag and range of one that is gone). The proof is the content hash, which
the worker takes while it reads the new unit. Then the old unit's rows leave in the commit that brings the new ones. A
source that is merely gone keeps its rows, and so does one that is still where it was, though this job no longer lists
it: beside that one, the new place holds a copy.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

import xxhash

from clipmill.jobs.table.ledger import Ledger, live
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState, Outcome, Receipt
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.folders.keys import pattern_of
from clipmill.workers.store.errors import FIRST_CONTACT_ATTEMPTS
from clipmill.workers.store.fs import head_of
from clipmill.workers.store.listing import list_keys
from clipmill.workers.store.storage import has_any

NOTHING = xxhash.xxh3_128_hexdigest(b"")  # the content of a unit without one readable sample
_THREADS = 16

IsGone = Callable[[LedgerEntry], bool]


class Moves:
    """Which gone unit a finished one takes the place of; each at most once. `is_gone` looks at the old place."""

    def __init__(self, gone: Iterable[LedgerEntry], hinted: dict[str, str], is_gone: IsGone) -> None:
        self._hinted, self._is_gone = hinted, is_gone
        self._by_content: dict[str, list[LedgerEntry]] = defaultdict(list)
        for entry in gone:
            if entry.content_hash not in ("", NOTHING):
                self._by_content[entry.content_hash].append(entry)

    def left_by(self, receipt: Receipt) -> str | None:
        """The unit whose content this receipt's unit has at its new place."""
        candidates = self._by_content.get(receipt.content_hash)
        if not candidates or receipt.outcome != Outcome.DONE:
            return None
        hint = self._hinted.get(receipt.unit_id)
        for entry in sorted(candidates, key=lambda e: (e.unit_id != hint, e.unit_id)):
            candidates.remove(entry)  # also one that is still there: it will be so for the next receipt
            if self._is_gone(entry):
                return entry.unit_id
        return None


class Gone:
    """Of units that are no longer listed: those whose place is empty, or written over with something else (`replaced`).
    Each place is looked at once, when it is asked for."""

    def __init__(
        self,
        entries: Iterable[LedgerEntry] = (),
        is_gone: IsGone = lambda entry: False,
        replaced: Collection[str] = (),
    ) -> None:
        self._entries, self._is_gone = {entry.unit_id: entry for entry in entries}, is_gone
        self._looked = {unit_id: True for unit_id in replaced if unit_id in self._entries}

    def stays(self, unit_id: str) -> None:
        """It turned out to be what its place has now."""
        self._looked[unit_id] = False

    def among(self, unit_ids: Iterable[str]) -> set[str]:
        asked = {unit_id for unit_id in unit_ids if unit_id in self._entries}
        new = sorted(asked - self._looked.keys())
        places = [self._entries[unit_id] for unit_id in new]
        answers = ordered_map(places, self._is_gone, threads=_THREADS)
        self._looked.update(zip(new, answers, strict=True))
        return {unit_id for unit_id in asked if self._looked[unit_id]}

    def files_among(self, unit_ids: Iterable[str]) -> set[str]:
        """Those of folders, their place empty or not: another pattern names the same files now."""
        return {i for i in unit_ids if i in self._entries and self._entries[i].format == "files"}

    def has_files(self) -> bool:
        return any(entry.format == "files" for entry in self._entries.values())


def unlisted(listed: Collection[str], latest: Ledger) -> list[LedgerEntry]:
    """Units that have rows and that the listing does not show, under no other name either."""
    alive = live(latest)
    kept = {e.alias_of for i, e in alive.items() if i in listed and e.state == LedgerState.ALIAS}
    return [e for i, e in alive.items() if e.state == LedgerState.COMMITTED and i not in listed and i not in kept]


def gone_from(storage: Storage) -> IsGone:
    """Whether nothing is left where a unit came from. A store that refuses to say, or is away, counts as still there:
    a copy too many is kept rather than rows lost."""

    def is_gone(entry: LedgerEntry) -> bool:
        try:
            if entry.format == "files":
                keys = list_keys(pattern_of(entry.uri), storage, start_after=entry.start, end=entry.end)
                return next(keys, None) is None
            if entry.format == "lance":
                return not has_any(f"{entry.uri}/_versions/", storage)
            head_of(entry.uri, storage, attempts=FIRST_CONTACT_ATTEMPTS)
        except FileNotFoundError:
            return True
        except (ClipmillError, OSError):
            return False
        return False

    return is_gone


def count_gone(entries: Iterable[LedgerEntry], storage: Storage) -> int:
    """How many of these places hold nothing any more."""
    return sum(ordered_map(entries, gone_from(storage), threads=_THREADS))
