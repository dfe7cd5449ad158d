"""What a worker hands back for a unit, and what the ledger keeps of it."""

from dataclasses import dataclass, field
from enum import StrEnum

from clipmill.schemas.unit.units import Format


class Outcome(StrEnum):
    """How an attempt at a unit ended in the worker."""

    DONE = "done"  # fragments are written (perhaps none: an empty shard)
    ALIAS = "alias"  # the object has a new etag but the same content; nothing was embedded
    SOURCE_CHANGED = "source_changed"  # the object is no longer the planned one; nothing counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Counts and uncommitted fragments of one attempt; no pixels, no vectors, nothing per sample. Only a fill that
    shares its `fragment` hands over `values`: the set's columns of its rows and their places, as an Arrow stream.

    `fragments` and `reject_fragments` are `FragmentMetadata.to_json()` texts, invisible until committed.
    `rejected` counts by reason. `seen == written + sum(rejected.values())`. `seconds` is by stage name.
    `unread` counts by column the values that could not be read and are null for that; `unread_first` tells the first.
    `left_out` counts by ending what the unit holds and the reader does not take; no part of `seen`. `filled`: of the
    rows, how many have a caption, tags, and each kept column; of a fill, how many have tags, and the `requests` and
    `bytes` that were asked of the store.
    `content_hash` covers key, bytes, caption and metadata of every sample in order.
    """

    unit_id: str
    run: str
    attempt: int
    outcome: Outcome
    seen: int = 0
    written: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    unread_first: dict[str, str] = field(default_factory=dict)
    fragments: tuple[str, ...] = ()
    reject_fragments: tuple[str, ...] = ()
    content_hash: str = ""
    alias_of: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    fragment: int = -1
    values: bytes = field(default=b"", repr=False)

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    def check_balance(self) -> None:
        """Assert that every sample seen was written or rejected (an invariant, not a user's mistake)."""
        assert self.seen == self.written + self.num_rejected, (
            f"unit {self.unit_id}: seen {self.seen} != written {self.written} + rejected {self.num_rejected}"
        )


class LedgerState(StrEnum):
    """What an entry of the ledger says happened to a unit at a table version."""

    COMMITTED = "committed"
    ALIAS = "alias"
    RETIRED = "retired"  # its rows left the table, replaced by newer units of the same source


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One event; seen = written + rejected + moved, and written = rows that are there + deleted. The newest
    `table_version` of a unit wins; at one version, COMMITTED wins over RETIRED."""

    unit_id: str
    state: LedgerState
    uri: str
    etag: str
    start: str
    end: str
    format: Format
    run: str
    attempt: int
    seen: int
    written: int
    rejected: int
    table_version: int
    content_hash: str = ""
    alias_of: str = ""
    left_out: str = ""  # JSON by ending; empty where nobody counted
    deleted: int = 0  # of `written`, rows that a person had deleted: written - deleted are there
    deleted_by: str = ""  # the run of the last such delete
    moved: int = 0  # rows whose place is gone, and which follow their sample into another unit

    @property
    def present(self) -> int:
        """Rows of this unit that the table must have."""
        return self.written - self.deleted

    @property
    def accounted(self) -> int:
        """Samples that this unit still answers for: rows and rejects."""
        return self.seen - self.moved

    @property
    def wanted(self) -> int:
        """Of these, those that nobody had deleted."""
        return self.accounted - self.deleted
