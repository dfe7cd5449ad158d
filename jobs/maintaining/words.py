"""What maintenance did, for the person at the terminal; all of it is in the JSON."""

from clipmill.jobs.maintaining.maintain import Maintained
from clipmill.schemas.text.words import counted


def maintained_in_words(done: Maintained) -> str:
    changed = [column for column, what in done.indices.items() if what]
    parts = []
    if done.fragments_before != done.fragments:
        parts.append(f"{counted(done.fragments_before, 'fragment')} became {done.fragments:,}")
    if changed:
        parts.append(f"new rows entered the indices of {', '.join(changed)}")
    if done.versions_removed:
        parts.append(f"{counted(done.versions_removed, 'old version')} left, with {_bytes(done.version_bytes)}")
    if done.orphans:
        parts.append(f"{counted(done.orphans, 'file')} that no version names left, {_bytes(done.orphan_bytes)}")
    if done.healed_units:
        parts.append(f"{counted(done.healed_units, 'unit')} entered that a killed run had left")
    if done.cut:
        what = counted(done.cut, "entry", "entries")
        parts.append(f"{what} of the ledger and the run log left that nothing needs any more")
    lines = [] if done.dry_run else parts
    if done.dry_run and done.versions_removed:
        lines.append(f"would remove {counted(done.versions_removed, 'old version')}")
    if done.dry_run and done.fragments_before != done.fragments:
        lines.append(f"would make {counted(done.fragments, 'fragment')} of {done.fragments_before:,}")
    if done.dry_run and done.orphans:
        lines.append(f"would remove {counted(done.orphans, 'file')} that no version names, {_bytes(done.orphan_bytes)}")
    now = counted(done.fragments_before if done.dry_run else done.fragments, "fragment")
    ending = f"table {done.table}, version {done.version}, {counted(done.rows, 'row')} in {now}"
    return "\n".join([*lines, *done.notes, ending if not done.dry_run else f"nothing was changed: {ending}"])


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else counted(number, "byte")
