"""The commands that run jobs on a Ray cluster that is up: submit, jobs, stop."""

import shlex
import sys
from typing import Any

import click

from clipmill.jobs.cli.options import (
    EXIT_INTERRUPTED,
    allow_source_option,
    job_argument,
    json_option,
    log_format_option,
    without_secret,
)

_COMMANDS = ("embed", "nightly", "reembed")


def _kept_back(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Known, so that whoever types it hears why it does nothing here."""
    if value is not None and value is not False:
        from clipmill.jobs.cluster import sent

        sent.refuse(param.opts[0])


def kept_back_options(command: Any) -> Any:
    """Of `embed`, `nightly` and `reembed`; `jobs.cluster.sent.KEPT_BACK` says why of each."""
    for name in ("--metrics", "--report", "--endpoint-url", "--region"):
        command = click.option(name, hidden=True, expose_value=False, callback=_kept_back)(command)
    return click.option("--dry-run", is_flag=True, hidden=True, expose_value=False, callback=_kept_back)(command)


url_option = click.option(
    "--address",
    metavar="URL",
    required=True,
    callback=without_secret,
    help="Ray's dashboard, such as http://HEAD:8265. Its token: RAY_AUTH_TOKEN.",
)
follow_option = click.option("--follow", is_flag=True, help="Show its log until it ends; its exit code becomes mine.")


@click.command(short_help="Run a job on a Ray cluster that is up.")
@job_argument
@url_option
@click.option(
    "--command",
    "command",
    type=click.Choice(_COMMANDS),
    default="embed",
    show_default=True,
    help="What to run there; `reembed` on the job's table.",
)
@follow_option
@click.option("--publish", is_flag=True, help="Passed on to `embed`.")
@click.option("--leave-sets", is_flag=True, help="Passed on to `embed`.")
@click.option("--model", metavar="NAME", help="Passed on to `reembed`, as those that follow.")
@click.option("--pretrained", metavar="TAG|FILE", help="A file of this machine has to be on every node too.")
@click.option("--set", metavar="SLUG", help="What the set is called.")
@click.option("--vocabulary", metavar="FILE", help="Sent along. Default: the job file's.")
@click.option("--head", metavar="NAME=FILE", multiple=True, callback=without_secret, help="Sent along.")
@click.option("--again", is_flag=True, help="Also try rows that could not be filled before.")
@allow_source_option
@kept_back_options
@click.option(
    "--wait-s",
    type=click.FloatRange(min=1),
    help="For a worker; then exit code 5. Default: the job's workers.wait_s.",
)
@log_format_option
@json_option
def submit(
    job_file: str, address: str, command: str, follow: bool, wait_s: float | None, as_json: bool, **options: Any
) -> None:
    """Send this very code and the job file to the cluster, check on a worker that both fit together, and run it there.

    Credentials are not sent: nodes have their own. The same again while it runs follows the first. Ctrl-C leaves the
    run alone and says how to come back; `clipmill stop` ends it.
    """
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)
    from clipmill.jobs.cluster.parcel import refuse_secrets
    from clipmill.jobs.cluster.sent import line
    from clipmill.jobs.terminal import lines

    asked = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    asked["--allow-source"] = asked.pop("--allow-sources")
    asked["--log-format"] = "json" if lines.are_json() else ""
    made = line(job, command, asked)
    if command == "nightly":
        refuse_secrets(job)
    from clipmill.jobs.cluster.dashboard import connect
    from clipmill.jobs.cluster.submit import Order
    from clipmill.jobs.cluster.submit import submit as send
    from clipmill.jobs.terminal.output import note, print_record

    order = Order(job=job, address=address, command=command, line=made, wait_s=wait_s or job.workers.wait_s)
    client = connect(address)
    found, is_new = send(client, order, note)
    note(f"{found.id}: {'submitted' if is_new else 'is under way already, and this joins it'}")
    if follow:
        _follow(client, address, found.id, as_json)
        return
    print_record(found, as_json=as_json)
    note(f"hint: to follow it: {_again('jobs', found.id, address)} --follow")


@click.command(name="jobs", short_help="Jobs that were submitted to a cluster, and how they ended.")
@click.argument("job_id", metavar="[ID]", required=False)
@url_option
@follow_option
@log_format_option
@json_option
def list_jobs(job_id: str | None, address: str, follow: bool, as_json: bool) -> None:
    """All jobs of clipmill that the cluster remembers, or one. `exit_code` is the one of the command that ran there."""
    if follow and job_id is None:
        raise click.UsageError("--follow needs the ID of a job")
    from clipmill.jobs.cluster.dashboard import connect, details
    from clipmill.jobs.cluster.submit import as_job, jobs
    from clipmill.jobs.terminal.output import print_record, print_rows

    client = connect(address)
    if job_id is None:
        columns = ("status", "exit_code", "command", "started", "seconds", "table", "id")
        print_rows(jobs(client, address), as_json=as_json, columns=columns, empty="no jobs of clipmill there")
    elif follow:
        details(client, address, job_id)
        _follow(client, address, job_id, as_json)
    else:
        print_record(as_job(details(client, address, job_id)), as_json=as_json)


@click.command(short_help="Stop a job on a cluster; what is in flight is finished and committed.")
@click.argument("job_id", metavar="ID")
@url_option
@click.option("--now", is_flag=True, help="Do not finish what is in flight; what was committed stays.")
@json_option
def stop(job_id: str, address: str, now: bool, as_json: bool) -> None:
    """End a job as Ctrl-C does: units in flight are finished and committed, for 90 seconds at most. Submitted again, it
    goes on from there."""
    from clipmill.jobs.cluster.dashboard import connect
    from clipmill.jobs.cluster.submit import stop as end
    from clipmill.jobs.terminal.output import note, print_record

    print_record(end(connect(address), address, job_id, now=now, say=note), as_json=as_json)


def _follow(client: Any, address: str, job_id: str, as_json: bool) -> None:
    from clipmill.jobs.cluster.follow import exit_code, follow
    from clipmill.jobs.terminal import lines
    from clipmill.jobs.terminal.output import note, print_record

    try:
        ended = follow(client, address, job_id, lines.passed_on("ray") if lines.are_json() else _show)
    except KeyboardInterrupt:
        back, end = (_again(word, job_id, address) for word in ("jobs", "stop"))
        note(f"left {job_id}, which goes on")
        note(f"hint: to come back: {back} --follow; to end it: {end}")
        sys.exit(EXIT_INTERRUPTED)
    print_record(ended, as_json=as_json)
    sys.exit(exit_code(ended))


def _show(text: str) -> None:
    from clipmill.jobs.terminal.output import printable

    sys.stderr.write(printable(text))
    sys.stderr.flush()


def _again(command: str, job_id: str, address: str) -> str:
    from clipmill.jobs.terminal.output import program

    return shlex.join([program(), command, job_id, "--address", address])


commands: list[click.Command] = [submit, list_jobs, stop]
