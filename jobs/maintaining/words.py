"""What maintenance did, for the person at the terminal; all of it is in the JSON."""

from clipmill.jobs.maintaining.maintain import Maintained


def maintained_in_words(done: Maintained) -> str:
    changed = [column for column, what in done.indices.items() if what]
    parts = []
    if done.fragments_before != done.fragments:
        parts.append(f"{done.fragments_before:,} fragments became {done.fragments:,}")
    if changed:
        parts.append(f"new rows entered the indices of {', '.join(changed)}")
    if done.versions_removed:
        parts.append(f"{done.versions_removed:,} old versions left, {_bytes(done.version_bytes)} with them")
    if done.orphans:
        parts.append(f"{done.orphans:,} files that no version names left, {_bytes(done.orphan_bytes)}")
    if done.healed_units:
        parts.append(f"{done.healed_units:,} units entered that a killed run had left")
    if done.cut:
        parts.append(f"{done.cut:,} entries of the ledger and the run log that nothing needs any more left")
    lines = [] if done.dry_run else parts
    if done.dry_run and done.versions_removed:
        lines.append(f"would remove {done.versions_removed:,} old versions")
    if done.dry_run and done.fragments_before != done.fragments:
        lines.append(f"would make {_fragments(done.fragments)} of {done.fragments_before:,}")
    if done.dry_run and done.orphans:
        lines.append(f"would remove {done.orphans:,} files that no version names, {_bytes(done.orphan_bytes)}")
    now = _fragments(done.fragments_before if done.dry_run else done.fragments)
    ending = f"table {done.table}, version {done.version}, {done.rows:,} rows in {now}"
    return "\n".join([*lines, *done.notes, ending if not done.dry_run else f"nothing was changed: {ending}"])


def _fragments(number: int) -> str:
    return f"{number:,} fragment" + "s" * (number != 1)


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number:,} bytes"
