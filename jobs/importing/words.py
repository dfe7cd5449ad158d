"""What a person is told at the end of an import."""

from clipmill.jobs.importing.request import Imported
from clipmill.jobs.table.proof import PROVEN
from clipmill.schemas.text.words import counted


def describe(done: Imported) -> str:
    """A few lines; the first has the numbers."""
    if done.note and not done.units:
        return done.note
    would = "would be " if done.dry_run else ""
    lines = [
        f"{counted(done.rows, 'row')} {would}imported from {counted(done.units, 'file')} ({done.form}), "
        f"{_rejects(done)}"
    ]
    if done.already_done:
        lines.append(f"{counted(done.already_done, 'file was', 'files were')} in the table already")
    if done.replaced_units:
        lines.append(f"the rows of {counted(done.replaced_units, 'changed file')} were replaced")
    lines += [f"  {one}" for one in done.refused]
    more = sum(done.rejects.values()) - len(done.refused)
    lines += [f"  … and {more:,} more: clipmill rejects {done.table}"] if more > 0 else []
    lines.append(f"{done.proof.state}: {done.proof.sentence}")
    lines += [f"  {one}" for one in done.proof.wrong]
    if done.proof.captions:
        captions = counted(done.proof.captions, "caption")
        lines.append(f"{captions} embedded again, least cosine {done.proof.caption_cosine:.4f}")
    if done.proof.state != PROVEN and not done.dry_run:
        lines.append("`verify`, `status` and `search` will say so; --pictures FOLDER proves it")
    return "\n".join(lines)


def _rejects(done: Imported) -> str:
    total = sum(done.rejects.values())
    if not total:
        return "no rejects"
    by = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.rejects.items(), key=lambda pair: -pair[1]))
    return f"{counted(total, 'reject')} ({by})"
