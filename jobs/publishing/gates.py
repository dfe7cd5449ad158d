"""The gates: conditions that the newest version of a table has to meet before readers see it. Each says its numbers.

What is compared is compared with `live`, the version that readers see now. Where nothing is published yet, those gates
have nothing to go by and pass; the absolute ones decide alone. Memory is a batch of rows, and a histogram of tags.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from clipmill.jobs.committing.commit import IDS_PER_FILTER, ids_filter
from clipmill.jobs.migrating import promote
from clipmill.jobs.publishing.night import Gate
from clipmill.jobs.publishing.set_gates import NONE, columns_gate, sets_gate
from clipmill.jobs.table import compat, ledger, sets
from clipmill.jobs.table.enough import are_few, passes
from clipmill.jobs.table.ledger import Ledger
from clipmill.jobs.table.readers import LIVE, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.tombstones import deleted_since, stayed_away
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import Nightly
from clipmill.schemas.text.words import counted, part_of
from clipmill.schemas.unit.receipts import LedgerState

MAX_VECTORS = 20_000  # whose length is looked at
OFF_LENGTH = 0.01  # of unit length; float16 keeps it to 2e-4
MIN_TAGS = 1_000  # under which a histogram says little
_RULES = ("hash", "top_k", "min_score", "label_vectors")  # of a vocabulary in the table: what makes its tags


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is judged, beside the table: thresholds, samples of units that failed, and a rollback by hand (from, to)
    that stands."""

    nightly: Nightly
    failed_units: int = 0
    failed_samples: int = 0
    held: tuple[int, int] | None = None


def judged_with(tables: Tables, nightly: Nightly, failed: set[str], held: tuple[int, int] | None = None) -> Judged:
    """`failed`: ids of units that have no rows. Of how many samples nobody knows: as many as the others on average."""
    alive = ledger.live(ledger.read_ledger(tables)) if failed else {}
    failed = failed - alive.keys()
    counts = [entry.accounted for entry in alive.values() if not entry.alias_of]
    samples = len(failed) * max(1, round(sum(counts) / max(1, len(counts))))
    return Judged(nightly=nightly, failed_units=len(failed), failed_samples=samples, held=held)


def check_gates(tables: Tables, judged: Judged, *, say: Callable[[str], None]) -> tuple[Gate, ...]:
    """All gates of the newest version, in the order of their cost; a gate that does not apply is left out."""
    rows = tables.open()
    tags = tags_of(rows)
    live = rows.checkout_version(int(tags[LIVE]["version"])) if LIVE in tags else None
    latest = ledger.read_ledger(tables)
    nightly = judged.nightly
    say("checking the gates")
    found = [
        _held(judged),
        _fewer_rows(tables, rows, live, nightly.max_gone),
        _coverage(tables, rows, latest, judged),
        _rejects(tables, latest, live, nightly),
        _vectors(rows, live),
        _tag_drift(rows, live, nightly.max_tag_drift),
        _recall(rows, nightly.min_recall),
        _golden(tables, live, nightly),
        sets_gate(tables, rows, live, nightly),
        columns_gate(tables, rows, live, nightly),
    ]
    return tuple(gate for gate in found if gate is not None)


def _held(judged: Judged) -> Gate | None:
    if judged.held is None:
        return None
    old, new = judged.held
    return Gate(
        name="held",
        passed=False,
        value=float(new),
        threshold=None,
        before=float(old),
        sentence=f"readers were taken back from version {old} to {new} by hand; `clipmill publish` lets them on",
    )


def _fewer_rows(tables: Tables, rows: Any, live: Any, most: float) -> Gate | None:
    """Beside what the listing lost: whatever took them (tars cut short, say), so many rows do not vanish unseen. Those
    that a person had deleted are no loss."""
    if live is None:
        return None
    before, now = int(live.count_rows()), int(rows.count_rows())
    asked_for = _asked_for(tables, rows, live)
    lost = max(0.0, 1 - (now + asked_for) / before) if before else 0.0
    uncounted = f", not counting {asked_for:,} that were deleted on request" if asked_for > 0 else ""
    sentence = f"{counted(now, 'row')} where readers see {before:,}: {lost:.2%} fewer{uncounted}, at most {most:.2%}"
    return Gate(name="rows", passed=lost <= most, value=lost, threshold=most, before=0.0, sentence=sentence)


def _asked_for(tables: Tables, rows: Any, live: Any) -> int:
    """Rows that readers see and that a person had deleted since, by their ids: the unit of each may be gone since."""
    count, ids = 0, sorted(deleted_since(tables, int(live.version)))
    for start in range(0, len(ids), IDS_PER_FILTER):
        which = ids_filter(ids[start : start + IDS_PER_FILTER])
        count += int(live.count_rows(filter=which)) - int(rows.count_rows(filter=which))
    return count


def _accounted(tables: Tables, latest: Ledger) -> tuple[int, int]:
    """(samples, rejects) of the units that are in the table, without what a person had deleted, and what was read again
    since and kept out for that."""
    alive = [e for e in ledger.live(latest).values() if e.state == LedgerState.COMMITTED]
    deleted, kept_out = stayed_away(tables, latest)
    return sum(e.accounted for e in alive) - deleted - kept_out, sum(e.rejected for e in alive) - kept_out


def deleted_rows(latest: Ledger) -> int:
    """Rows that a person had deleted, of units that are in the table."""
    return sum(e.deleted for e in ledger.live(latest).values() if e.state == LedgerState.COMMITTED)


def _coverage(tables: Tables, rows: Any, latest: Ledger, judged: Judged) -> Gate:
    samples = _accounted(tables, latest)[0] + judged.failed_samples
    count, least = int(rows.count_rows()), judged.nightly.min_coverage
    share = count / samples if samples else 0.0
    failed = f" ({counted(judged.failed_units, 'unit')} failed)" if judged.failed_units else ""
    sentence = f"{part_of(count, samples, 'sample', 'has', 'have')} a row{failed}: coverage {share:.4f}"
    sentence += f", at least {least:g}"
    passed, few = passes(count, samples, least, judged.nightly.min_misses)
    if not samples:
        passed, sentence = False, "the table has no row, and no sample that could have one: readers would find nothing"
    if few:
        sentence += f"; {samples - count} missing are too few to judge a share by"
    if share > 1:  # rows of no unit: they are there twice, or somebody else wrote them
        sentence = f"{counted(count, 'row')} for {counted(samples, 'sample')}: more than there can be"
        sentence += "; `clipmill verify` says which"
    return Gate(name="coverage", passed=passed and share <= 1, value=share, threshold=least, sentence=sentence)


def _rejects(tables: Tables, latest: Ledger, live: Any, nightly: Nightly) -> Gate:
    most = nightly.max_more_rejects
    samples, rejected = _accounted(tables, latest)
    now = rejected / samples if samples else 0.0
    if live is None:
        said = f"{now:.2%} of the samples are rejected; {NONE}"
        return Gate(name="rejects", passed=True, value=now, threshold=most, sentence=said)
    samples_before, rejected_before = _accounted(tables, ledger.read_ledger(tables, up_to=int(live.version)))
    before = rejected_before / samples_before if samples_before else 0.0
    said = f"{now:.2%} of the samples are rejected, {before:.2%} in what readers see: at most {most:.2%} more"
    more = rejected - rejected_before
    passed = now - before <= most
    if not passed and are_few(more, samples, nightly.min_misses):
        passed, said = True, f"{said}; {more} more are too few to judge a share by"
    return Gate(name="rejects", passed=passed, value=now, threshold=most, before=before, sentence=said)


def _vectors(rows: Any, live: Any) -> Gate:
    """Finite and of unit length, in what readers have not seen yet; and of the model that they know."""
    if live is not None:
        mine, theirs = compat.stored_fingerprint(rows.schema), compat.stored_fingerprint(live.schema)
        if mine.identity() != theirs.identity() and not promote.is_done(rows, live):
            said = f"the vectors are of {mine.model}, those that readers see of {theirs.model}: another fingerprint; "
            said += f"`clipmill promote TABLE {sets.slug_in_use(rows.schema)}` ends a promotion that was cut off"
            hint = "promote again, which lets them on or says what does"  # force leaves plain clients without words
            return Gate(name="vectors", passed=False, value=1.0, threshold=0.0, sentence=said, hint=hint)
    new = f"_row_created_at_version > {int(live.version)} AND " if live is not None else ""
    scanner = rows.scanner(columns=["vector"], filter=f"{new}vector IS NOT NULL", limit=MAX_VECTORS, batch_size=4096)
    count = bad = 0
    for batch in scanner.to_batches():
        column = batch.column("vector")
        values_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)
        off_N = np.abs(np.linalg.norm(values_ND, axis=1) - 1)
        count, bad = count + len(off_N), bad + int((~(off_N <= OFF_LENGTH)).sum())
    share = bad / count if count else 0.0
    said = part_of(bad, count, "new vector", "looked at is", "looked at are")
    said += " not finite and of unit length: none may be"
    return Gate(name="vectors", passed=not bad, value=share, threshold=0.0, sentence=said)


def histogram(rows: Any) -> dict[str, int]:
    """How many rows have each tag."""
    counts: dict[str, int] = {}
    if "tags" not in rows.schema.names:
        return counts
    for batch in rows.scanner(columns=["tags"], batch_size=8192).to_batches():
        for pair in pc.value_counts(pc.list_flatten(batch.column("tags"))).to_pylist():
            counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
    return counts


def total_variation(one: dict[str, int], other: dict[str, int]) -> float:
    """Half the sum of the differences of the shares: 0 for equal histograms, 1 for those without a common tag."""
    mine, theirs = sum(one.values()), sum(other.values())
    if not mine or not theirs:
        return 0.0 if mine == theirs else 1.0
    return 0.5 * sum(abs(one.get(t, 0) / mine - other.get(t, 0) / theirs) for t in one.keys() | other.keys())


def _tag_drift(rows: Any, live: Any, most: float) -> Gate | None:
    if live is None:
        return None
    mine, theirs = (compat.stored_vocabulary(of.schema) or {} for of in (rows, live))
    if any(mine.get(key) != theirs.get(key) for key in _RULES):  # no run does that: somebody called `retag`
        said = f"the tags are of '{mine.get('name')}', those that readers see of '{theirs.get('name')}'"
        if mine.get("name") == theirs.get("name"):
            said = f"the tags of '{mine.get('name')}' were given anew by other rules than readers see"
        return Gate(name="tag_drift", passed=True, value=None, threshold=most, sentence=f"{said}: not compared")
    one, other = (compat.stored_fingerprint(of.schema) for of in (rows, live))
    if one.identity() != other.identity():  # what the gate `vectors` thinks of it is its own matter
        said = f"the tags are of vectors of {one.model}, those that readers see of {other.model}: not compared"
        return Gate(name="tag_drift", passed=True, value=None, threshold=most, sentence=said)
    now, before = histogram(rows), histogram(live)
    if not now and not before:
        return None
    drift = total_variation(now, before)
    said = f"the tags of the night and of what readers see differ by {drift:.3f} (total variation), at most {most:g}"
    tags: int = min(sum(now.values()), sum(before.values()))
    if 0 < tags < MIN_TAGS:
        said = f"{drift:.3f} of total variation between the tags says little, with {tags:,} of them"
        return Gate(name="tag_drift", passed=True, value=drift, threshold=most, before=0.0, sentence=said)
    return Gate(name="tag_drift", passed=drift <= most, value=drift, threshold=most, before=0.0, sentence=said)


def _recall(rows: Any, least: float) -> Gate | None:
    """None without an index of the vectors: then every search is exact."""
    from clipmill.jobs.indexing.recall import measure
    from clipmill.jobs.querying.snapshot import Snapshot

    if Snapshot(rows).vector_index("vector") is None:
        return None
    found = measure(rows, "vector")
    queries = counted(found.queries, "query", "queries")
    said = f"the index finds {found.recall:.4f} of the true {found.k} nearest ({queries}), at least"
    passed = found.recall >= least
    return Gate(name="recall", passed=passed, value=found.recall, threshold=least, sentence=f"{said} {least:g}")


def _golden(tables: Tables, live: Any, nightly: Nightly) -> Gate | None:
    if nightly.golden is None:
        return None
    from clipmill.jobs.publishing.golden import golden_options

    most = nightly.max_worse
    with golden_options(nightly.golden, tables.storage) as options:
        try:
            what, now = _score(tables, int(tables.open().version), options)
        except UserError as error:
            copy = options.labels or options.captions or ""
            said = f"the golden set cannot be judged: {error.message.replace(copy, nightly.golden)}"
            return Gate(name="golden", passed=False, value=None, threshold=most, sentence=said)
        before = None
        if live is not None:
            try:
                before = _score(tables, int(live.version), options)[1]
            except UserError:  # none of its pictures was in the table then
                before = None
    if before is None:
        said = f"{what} on the golden set is {now:.4f}; {NONE}"
        return Gate(name="golden", passed=True, value=now, threshold=most, sentence=said)
    said = f"{what} on the golden set is {now:.4f}, {before:.4f} in what readers see: at most {most:g} less"
    passed = before - now <= most
    return Gate(name="golden", passed=passed, value=now, threshold=most, before=before, sentence=said)


def _score(tables: Tables, version: int, options: Any) -> tuple[str, float]:
    from clipmill.jobs.exploring.evaluate import evaluate
    from clipmill.jobs.querying.open import open_table

    table = open_table(f"{tables.database}/{tables.name}", version=version, storage=tables.storage)
    found = evaluate(table, options)
    if found.zero_shot is not None:
        # Pictures that have no row count as wrong: a set that shrinks does not get better.
        return "accuracy", found.zero_shot.top1 * found.rows / (found.rows + found.absent)
    assert found.retrieval is not None
    return "recall@10", found.retrieval.text_to_image.recall["10"] * found.rows / (found.rows + found.absent)
