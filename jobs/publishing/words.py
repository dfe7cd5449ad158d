"""A night for the person at the terminal: what came, changed and went, rejects, gates, what readers see, what next.
All of it is in the JSON; here is only what is not zero."""

from clipmill.jobs.publishing.night import Night
from clipmill.jobs.running.summary import sets_in_words
from clipmill.schemas.text.words import all_of, counted

_HEADS = {
    "published": "published",
    "units": "published, but units failed",
    "refused": "not published",
    "interrupted": "interrupted, nothing was published",
    "failed": "failed",
}


def night_in_words(night: Night) -> str:
    if night.status == "nothing":
        lines = [f"nothing to do: {all_of(night.units, 'unit')} in the table; {_readers(night)}"]
        lines += [_gone(night)] if night.gone else []
        lines += sets_in_words([one for one in night.sets if one["left"]], night.columns)
    else:
        lines = [f"{_HEADS.get(night.status, night.status)}: {_readers(night)}", _rows(night), _rejects(night)]
        lines += sets_in_words(night.sets, night.columns)
        lines += [_gates(night), _files(night), _pace(night)]
    if night.rejects:
        lines.append(f"next: `clipmill rejects {night.table}` names what has no row")
    return "\n".join(line for line in lines if line)


def _readers(night: Night) -> str:
    if night.live_after is None:
        return f"no version is published yet, so readers see the newest, with {counted(night.rows_after, 'row')}"
    if night.live_after == night.versions.get("rows"):
        before = (
            f", before that version {night.live_before}" if night.live_before not in (None, night.live_after) else ""
        )
        return f"readers see version {night.live_after} with {counted(night.rows_after, 'row')}{before}"
    newest = night.versions.get("rows", 0)
    return f"readers see version {night.live_after}, the newest is {newest} with {counted(night.rows_after, 'row')}"


def _rows(night: Night) -> str:
    """Rows first, then what units say."""
    new = night.rows if night.rows_new is None else night.rows_new
    rows = [
        (new, "new"),
        (night.rows_changed or 0, "changed"),
        (night.rows_gone, "gone"),
        (night.rows_again, "read again with their unit"),
    ]
    units = [
        (night.came, "new"),
        (night.changed, "changed"),
        (night.moved, "moved"),
        (night.aliased, "unchanged under a new etag"),
        (night.gone, "gone"),
        (night.retried, "tried again"),
    ]
    told = ", ".join(f"{number:,} {what}" for number, what in rows if number)
    of = ", ".join(f"{number:,} {what}" for number, what in units if number)
    return f"rows: {told or 'none came, changed or went'}" + (f" (units: {of})" if of else "")


def _gone(night: Night) -> str:
    units, samples = counted(night.gone, "unit"), counted(night.gone_samples, "sample")
    return f"gone from the source, and kept: {units} with {samples}"


def _rejects(night: Night) -> str:
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in night.rejects.items() if number)
    parts = [f"{counted(sum(night.rejects.values()), 'reject')} ({reasons})"] if reasons else []
    parts += [f"{counted(len(night.failed_units), 'unit')} failed"] if night.failed_units else []
    return "; ".join(parts)


def _gates(night: Night) -> str:
    if not night.gates:
        return ""
    refused = ", ".join(gate.name for gate in night.refused)
    passed = ", ".join(gate.name for gate in night.gates if gate.passed)
    told = [f"{refused} refused"] if refused else []
    told += [f"{passed} passed"] if passed else []
    return f"gates: {'; '.join(told)}"


def _files(night: Night) -> str:
    done = night.maintained
    parts = []
    if done.get("fragments_before", 0) > done.get("fragments", 0):
        parts.append(f"{counted(done['fragments_before'], 'fragment')} became {done['fragments']:,}")
    if done.get("versions_removed"):
        parts.append(f"{counted(done['versions_removed'], 'old version')} left")
    if done.get("orphans"):
        parts.append(f"{counted(done['orphans'], 'file')} of killed runs left")
    parts += done.get("notes", [])
    return f"files: {', '.join(parts)}" if parts else ""


def _pace(night: Night) -> str:
    speed = f", {night.samples_per_s:,.1f} samples/s" if night.samples_per_s else ""
    speed += f", limited by {night.limited_by}" if night.limited_by else ""
    cost = f", {night.dollars:,.2f} dollars" if night.dollars else ""
    return f"{night.seconds:,.1f} s{speed}{cost}; run {night.run}"
