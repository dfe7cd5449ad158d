"""The commands of every night, and what readers see after it: nightly, publish, rollback."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipmill.jobs.cli.options import (
    EXIT_INTERRUPTED,
    NewFile,
    address_option,
    job_argument,
    json_option,
    log_format_option,
    metrics_option,
    storage_from,
    table_options,
)

if TYPE_CHECKING:
    from clipmill.jobs.publishing.night import Gate


@click.command(short_help="Every night: take in what changed, and publish it if it passes the gates.")
@job_argument
@address_option
@click.option("--report", "report_file", metavar="FILE", type=NewFile(), help="Also write the night as one HTML page.")
@metrics_option
@log_format_option
@json_option
def nightly(
    job_file: str, address: str | None, report_file: str | None, metrics_file: str | None, as_json: bool
) -> None:
    """Bring the table up to date with its source, keep its files in order, check the gates of the job file's section
    `nightly`, and move the tag `live`, which readers follow, if all of them pass.

    Safe to run twice, and safe to kill: the next night goes on from there. Exit codes: 0 published, or nothing to do;
    3 published, but some units failed; 4 a gate refused, and readers see what they saw before; 5 another run holds the
    table, or no worker came in time: later.
    """
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)
    from clipmill.jobs.publishing.night import now
    from clipmill.jobs.publishing.nightly import nightly as run_nightly
    from clipmill.jobs.publishing.words import night_in_words
    from clipmill.jobs.reporting.write import write_failed_night, write_night
    from clipmill.jobs.terminal.output import note, print_words, program
    from clipmill.schemas.errors import EXIT_UNITS_FAILED
    from clipmill.schemas.text.words import units_without_rows

    again = shlex.join([program(), "nightly", job_file, *(["--address", address] if address else [])])
    # Before the run, which leaves this folder.
    page, metrics = (Path(name).absolute() if name else None for name in (report_file, metrics_file))
    began = now()
    try:
        night = run_nightly(job, say=note, address=address, resume=again, metrics=metrics)
    except Exception:
        if page:
            write_failed_night(job, began, page, note)
        raise
    if page:
        write_night(job, night, page, note)
    print_words(night, night_in_words, as_json=as_json)
    if night.status == "interrupted":
        note("error: interrupted; what was finished is in the table, and nothing was published")
        note(f"hint: to go on from there: {again}")
        sys.exit(EXIT_INTERRUPTED)
    if night.failed_units:
        note(f"error: {units_without_rows(night.failed_units)}")
    _exit_where_refused(job.table, night.refused, night.live_after)
    if night.failed_units:
        note("hint: the next night tries them again")
        sys.exit(EXIT_UNITS_FAILED)


@click.command(short_help="Show readers the newest version, if it passes the gates.")
@table_options
@click.option("--force", is_flag=True, help="Publish even where gates refuse, and say which.")
@json_option
def publish(table: str, endpoint_url: str | None, region: str | None, force: bool, as_json: bool) -> None:
    """Move the tag `live`, which readers follow, to the newest version of TABLE. The gates' thresholds are those of the
    job that ran last, and units that failed in the last run count as missing. Exit code 4 where a gate refuses."""
    from clipmill.jobs.publishing import publish as publishing
    from clipmill.jobs.terminal.output import note, print_record

    done = publishing.publish(table, storage_from(endpoint_url, region), force=force, say=note)
    print_record(done, as_json=as_json)
    for gate in done.gates:
        if gate.name in done.overridden:
            note(f"overridden by --force: {gate.name}: {gate.sentence}")
    _exit_where_refused(table, done.refused, done.version)


@click.command(short_help="Show readers an earlier version again.")
@table_options
@click.option("--to", required=True, metavar="VERSION", help="A version's number, or previous.")
@json_option
def rollback(table: str, endpoint_url: str | None, region: str | None, to: str, as_json: bool) -> None:
    """Move the tag `live` back: `previous` is what readers saw before, and is refused where they were taken back to
    it already. With its number also on again to a newer version, if readers saw it before; any other is published by
    `clipmill publish`. Nights go on, but publish nothing until `clipmill publish` is called by hand."""
    from clipmill.jobs.publishing import publish as publishing
    from clipmill.jobs.terminal.output import note, print_record

    done = publishing.rollback(table, storage_from(endpoint_url, region), to=to, say=note)
    print_record(done, as_json=as_json)


def _exit_where_refused(table: str, refused: "Sequence[Gate]", live: int | None) -> None:
    from clipmill.jobs.terminal.output import note
    from clipmill.schemas.errors import EXIT_GATE_REFUSED

    if not refused:
        return
    for gate in refused:
        note(f"error: not published, gate {gate.name}: {gate.sentence}")
    seen = f"readers still see version {live}"
    if live is None:
        seen = "nothing is published yet, so readers see the newest version"
    gone = next((gate for gate in refused if gate.name == "gone"), None)
    if gone is not None:
        what = "if that much is gone on purpose, raise nightly.max_gone once"
        note(f"hint: nothing was deleted, and {seen}; {gone.hint or what}")
    elif all(gate.name == "held" for gate in refused):
        note(f"hint: {seen}; `clipmill publish {table}` looks at the other gates, and lets them on")
    elif hint := next((gate.hint for gate in refused if gate.hint), ""):
        note(f"hint: {seen}; {hint}")
    else:
        note(f"hint: {seen}; `clipmill publish {table} --force` publishes all the same")
    sys.exit(EXIT_GATE_REFUSED)


commands: list[click.Command] = [nightly, publish, rollback]
