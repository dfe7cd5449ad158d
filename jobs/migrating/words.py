"""What became of a set, for the person at the terminal; all of it is in the JSON."""

from typing import TYPE_CHECKING

from clipmill.jobs.migrating.drop import Dropped
from clipmill.jobs.migrating.promote import ALREADY, Promotion
from clipmill.jobs.migrating.promote_gates import Overlap, Verdict
from clipmill.jobs.table.sets import missing_in_words
from clipmill.schemas.text.words import counted, part_of

if TYPE_CHECKING:  # whoever promotes needs nothing of what fills
    from clipmill.jobs.migrating.reembed import Reembedded

BAR = 24  # characters of the longest
SHOWN = 5  # pictures whose neighbours changed most


def verdict_in_words(verdict: Verdict) -> str:
    """Every figure with what it counts."""
    lines = [f"the set '{verdict.set}' of {verdict.model}, to take the place of '{verdict.in_use}'"]
    lines += figures(verdict)
    if verdict.overlap is not None:
        lines += histogram(verdict.overlap)
    lines += [f"in the way: {name}: {sentence}" for name, sentence in verdict.blockers.items()]
    lines += verdict.notes
    if not verdict.blockers:
        lines.append(f"nothing stands in the way: `clipmill promote {verdict.table} {verdict.set}` puts it in use")
    return "\n".join(lines)


def figures(verdict: Verdict) -> list[str]:
    found = verdict.coverage
    missing = missing_in_words(found["failed"], found["rejects"], found["left"])
    have = f"{part_of(found['filled'], found['rows'], 'row', 'has', 'have')} its vector ({found['share']:.2%})"
    lines = [f"{have}; {missing}" if missing else have]
    if verdict.overlap is not None:
        lines.append(f"of {verdict.overlap.k} nearest neighbours both models agree on {verdict.overlap.mean:.0%}")
    if verdict.recall is not None:
        lines.append(f"its index {verdict.index} finds {verdict.recall:.1%} of the true nearest")
    if verdict.golden is not None:
        told = ", ".join(f"{name} {value:.4f}" for name, value in verdict.golden.items())
        lines.append(f"golden set: {told}")
    return lines


def histogram(overlap: Overlap) -> list[str]:
    """A line for each number of shared neighbours that some picture has."""
    most = max(overlap.histogram, default=0)
    pictures_seen = counted(overlap.rows, "picture")
    lines = [f"of {pictures_seen}, how many share so many of their {overlap.k} nearest in both models:"]
    for shared, pictures in enumerate(overlap.histogram):
        if pictures:
            bar = "#" * max(1, round(BAR * pictures / most))
            lines.append(f"  {shared:>2} shared  {pictures:>6,} pictures  {bar}")
    named = ", ".join(f"{one['id']} ({one['shared']} shared)" for one in overlap.changed_most[:SHOWN])
    return [*lines, f"those that changed most: {named}"] if named else lines


def promotion_in_words(done: Promotion) -> str:
    seen = (
        f"readers see version {done.live}" if done.live is not None else "no version is published; readers see it too"
    )
    since = "" if ALREADY in done.notes else f" since version {done.version}"  # since an older one, nobody knows which
    lines = [f"'{done.set}' ({done.model}) is in use{since}; {seen}"]
    lines += figures(done.verdict) if done.verdict is not None else []
    lines.append(f"kept beside it: '{done.beside}'; `clipmill promote {done.table} --back` takes it back in use")
    return "\n".join([*lines, *(done.verdict.notes if done.verdict is not None else []), *done.notes])


def reembedded_in_words(done: "Reembedded") -> str:
    """How far the set is, what this call did for it, and what is next."""
    missing = missing_in_words(done.failed, done.reasons, done.left)
    have = f"set '{done.set}' of {done.model}: {done.filled:,} of {counted(done.table_rows, 'row')} filled"
    lines = [f"{have} ({done.rows:,} now){f'; {missing}' if missing else ''}"]
    if done.requests:
        read = f"{done.bytes_read / 1e6:,.1f} MB read in {done.requests:,} requests"
        lines.append(f"{read}, for pictures of {done.image_bytes / 1e6:,.1f} MB")
    if done.run:
        limit = f", limited by {done.limited_by}" if done.limited_by else ""
        lines.append(
            f"{done.rows_per_s:,.1f} rows/s{limit}; {done.seconds:.1f} s in all, {done.startup_s:.1f} s of them to "
            f"start; run {done.run}"
        )
    lines += [f"index: {done.index}"] if done.index else []
    if done.failed:
        lines.append(f"`clipmill rejects {done.table} --set {done.set}` names what could not be filled")
    if done.imported:
        lines.append(
            f"{counted(done.imported, 'imported row')} cannot be filled: which bytes their pictures were is not known; "
            "where their uri names them: --allow-source FOLDER --again"
        )
    if not done.left:
        lines.append(
            f"next: `clipmill promote {done.table} {done.set} --dry-run` says what stands in the way of its use"
        )
    return "\n".join(lines)


def dropped_in_words(done: Dropped) -> str:
    if not done.columns:
        return f"the set '{done.set}' was dropped before; table {done.table}, version {done.version}"
    freed = f"{done.bytes_freed / 1e6:,.1f} MB were freed by older versions; " if done.bytes_freed else ""
    return "\n".join(
        [
            f"the set '{done.set}' is gone: {counted(len(done.columns), 'column')} of {done.table}, "
            f"version {done.version}",
            f"{freed}its space is freed when the versions that still have it are a week old: by the next night, or",
            f"`clipmill maintain {done.table}`",
        ]
    )
