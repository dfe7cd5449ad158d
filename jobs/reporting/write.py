"""The page of a night that has just ended, for the job that ran it. It never changes how the night ends."""

from collections.abc import Callable
from pathlib import Path

from clipmill.jobs.publishing.night import Night
from clipmill.jobs.reporting.night import NightOptions, find_night, night_report
from clipmill.jobs.reporting.page import render, write_page
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.secrets import masked


def write_night(job: JobFile, night: Night, path: Path, say: Callable[[str], None]) -> bool:
    """True where the page is written; else `say` is told why not. The job's source and searches are the caller's own,
    so pictures of rejects are read from that source, and examples of searches from anywhere."""
    options = NightOptions(allow=job.source.uri, watch=job.nightly.watch, own=True)
    try:
        found = night_report(Tables.at(job.table, job.storage), night, options)
        write_page(path, render("night.html.j2", r=found))
    except Exception as error:  # noqa: BLE001 - the night is over, and how it ended is what the exit code says
        message = getattr(error, "message", f"{type(error).__name__}: {str(error)[:200]}")
        say(f"the report was not written: {masked(message)}")
        return False
    say(f"report: {path}")
    return True


def write_failed_night(job: JobFile, since: str, path: Path, say: Callable[[str], None]) -> None:
    """The page of a night that ended in an error, if it is remembered. `since`: when it began, ISO 8601 in UTC."""
    try:
        night = find_night(Tables.at(job.table, job.storage), "last")
    except Exception as error:  # noqa: BLE001 - perhaps the store is what failed
        say(f"the report was not written: {type(error).__name__}")
        return
    if night.at >= since:
        write_night(job, night, path, say)
