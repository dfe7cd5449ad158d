"""What a night may take away from the table, and what it tries again: decided on the plan, before anything is written.

A bucket that is away, throttles or lists half of itself must never empty a table. So a listing that lost too much is
refused whole; and of what is gone only that leaves whose place was looked at and is empty.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from clipmill.jobs.committing.moves import gone_from
from clipmill.jobs.planning.plan import Plan
from clipmill.jobs.publishing.night import Gate, Night
from clipmill.jobs.publishing.retry import Retry
from clipmill.jobs.table import ledger
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.tombstones import kept_out
from clipmill.schemas.errors import ClipmillError, GateRefused
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.words import part_of
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.fields import Wanted
from clipmill.workers.read.folders.keys import file_patterns, is_asked_for, pattern_of, split_key, wanted_keys

_THREADS = 16


class TooMuchGone(GateRefused):
    """`gate` has the numbers. The night that meets it is refused, and says so itself."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate.sentence)
        self.gate = gate


@dataclass(slots=True)
class Sync:
    """One night's decisions. `gone_before`: samples that were gone already when the last good night ended."""

    job: JobFile
    tables: Tables
    gone_before: int = 0
    plan: Plan | None = None
    gone_units: int = 0
    gone_samples: int = 0  # of them, without those that a person had deleted
    deleted_rows: int = 0
    deleted_samples: int = 0
    gate: Gate | None = None
    retry: Retry = field(init=False)
    _empty: dict[str, bool] = field(default_factory=dict)  # places that were looked at
    _named_otherwise: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.retry = Retry(self.tables, self.job.storage)

    def review(self, plan: Plan) -> Plan:
        """The plan with what may leave taken out. Raises TooMuchGone. Called again where the ledger turned out to be
        healed meanwhile: only what the last plan says counts."""
        self.plan = plan
        self.deleted_rows = self.deleted_samples = 0
        moving = set(plan.moved.values())
        gone = [entry for entry in plan.gone if entry.unit_id not in moving]
        out = kept_out(self.tables, plan.ledger) if gone or plan.replacements else Counter()
        self.gone_units, self.gone_samples = len(gone), self._lost(gone, out)
        most, lost = self.job.nightly.max_gone, max(0, self.gone_samples - self.gone_before) + shrunk(plan, out)
        self.gate = gone_gate(lost, total(plan.ledger, out), most)
        if not self.gate.passed:
            raise TooMuchGone(self.gate)
        if self.job.nightly.gone == "keep" or not gone:
            return plan
        leaving = self._with_empty_place(gone)
        self.deleted_rows = sum(entry.present for entry in leaving)
        self.deleted_samples = wanted(leaving, out)
        return plan.without({entry.unit_id for entry in leaving})

    def _lost(self, gone: list[LedgerEntry], out: Counter[str]) -> int:
        """Samples of these units, without pictures that lie where they lay and that another pattern of the job file
        names now: it may be written anew, and no sample leaves by that."""
        by_uri: dict[str, list[LedgerEntry]] = defaultdict(list)
        for entry in gone:
            by_uri[entry.uri if entry.format == "files" else ""].append(entry)
        lost = wanted(by_uri.pop("", []), out)
        for uri, entries in by_uri.items():
            samples = wanted(entries, out)
            if samples and uri not in self._named_otherwise:
                self._named_otherwise[uri] = named_otherwise(uri, self.job)
            lost += max(0, samples - self._named_otherwise.get(uri, 0))
        return lost

    def _with_empty_place(self, entries: list[LedgerEntry]) -> list[LedgerEntry]:
        asked = [entry for entry in entries if entry.unit_id not in self._empty]
        is_gone = gone_from(self.job.storage)
        answers = ordered_map(asked, is_gone, threads=_THREADS)
        self._empty.update(zip([entry.unit_id for entry in asked], answers, strict=True))
        return [entry for entry in entries if self._empty[entry.unit_id]]


def named_otherwise(uri: str, job: JobFile) -> int:
    """How many of the pictures that a folder's or a glob's `uri` stands for lie there and are named by what the job
    file has instead of it; 0 where it has it still. One listing of it; a store that does not answer says nothing."""
    found = 0
    try:
        patterns = tuple(file_patterns(job.source, job.storage)) if job.source.format == "files" else ()
        old = pattern_of(uri)
        if not patterns or old.uri in {pattern.uri for pattern in patterns}:
            return 0
        images = Wanted.of(job.source).image
        for key in wanted_keys(old, job.source, job.storage):
            found += split_key(key.name)[1] in images and not is_asked_for(key.name, old, patterns)
    except (ClipmillError, OSError):
        return 0
    return found


def wanted(entries: Iterable[LedgerEntry], out: Counter[str]) -> int:
    """Samples of these units, without those that a person had deleted: they may go from the source too. `out`: by unit,
    those that were read again since and kept out for that."""
    return sum(entry.wanted - out[entry.unit_id] for entry in entries)


def total(latest: Ledger, out: Counter[str]) -> int:
    """The same of all units in the table."""
    return wanted((e for e in ledger.live(latest).values() if e.state == LedgerState.COMMITTED), out)


def shrunk(plan: Plan, out: Counter[str]) -> int:
    """Samples that replaced objects have fewer than before, where the listing tells: a list cut short, say."""
    sizes = {unit.unit_id: unit.num_samples for unit in plan.todo}
    lost = 0
    for group in plan.replacements:
        new = [sizes.get(unit_id) for unit_id in group.new]
        if None not in new:
            old = wanted((plan.ledger[unit_id] for unit_id in group.old), out)
            lost += max(0, old - sum(count for count in new if count is not None))
    return lost


def gone_gate(lost: int, of: int, most: float) -> Gate:
    share = lost / of if of else 0.0
    gone = part_of(lost, of, "sample", "is", "are")
    said = f"{gone} gone from the source: {share:.2%}, at most {most:.2%}"
    return Gate(name="gone", passed=share <= most, value=share, threshold=most, sentence=said)


def empty_gate(of: int) -> Gate:
    """Of a listing that shows nothing at all, which is refused whatever `max_gone` is: it has no threshold."""
    them = "the 1 sample" if of == 1 else f"all {of:,} samples"
    said = f"the source's listing is empty: {them} would be gone, which no nightly.max_gone lets pass"
    hint = "check source.uri; if all is gone on purpose, `clipmill delete TABLE --where SQL` takes the rows"
    return Gate(name="gone", passed=False, value=1.0, threshold=None, sentence=said, hint=hint)


def unseen_gate(what: str) -> Gate:
    """Of several addresses one shows nothing, or all of them: `what` says which was met. The others are not counted."""
    said = f"{what}: what it held would be gone, which no nightly.max_gone lets pass"
    hint = "what is gone on purpose has to leave source.uri"
    return Gate(name="gone", passed=False, value=None, threshold=None, sentence=said, hint=hint)


def gone_at_last(history: list[Night]) -> int:
    """Samples that were gone when the last night ended that was not refused for it. Each night after it hands that on,
    so it does not matter how many failed since, nor how many of them the log still has."""
    for night in reversed(history):
        if night.status != "failed" and all(gate.name != "gone" for gate in night.refused):
            return night.gone_samples
        if night.gone_before is not None:
            return night.gone_before
    return 0
