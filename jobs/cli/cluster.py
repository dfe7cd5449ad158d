"""The commands that run jobs elsewhere, or later."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from clipmill.jobs.cli.options import EXIT_INTERRUPTED, job_argument, json_option, without_secret

# Of `jobs.scheduling.night.KINDS`, which `--help` does not load.
_KINDS = ("cronjob", "crontab", "systemd", "airflow", "dagster", "argo", "raycronjob")
_COMMANDS = ("embed", "nightly", "reembed")


@click.command(short_help="Print what makes a scheduler run `nightly`.")
@job_argument
@click.option("--kind", type=click.Choice(_KINDS), default="cronjob", show_default=True, help="The scheduler.")
@click.option("--at", default="04:00", show_default=True, metavar="HH:MM", help="The time of the day.")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Such as Europe/Berlin.")
@click.option(
    "--address",
    metavar="URL",
    callback=without_secret,
    help="Ray's dashboard (http://HEAD:8265): each night is submitted there. Default: it runs where it is started.",
)
@click.option("--image", metavar="IMAGE", callback=without_secret, help="The image of pods, best by its digest.")
@click.option(
    "--alert",
    metavar="COMMAND",
    callback=without_secret,
    help="A shell command for nights that do not end well; it stands in the file. Kubernetes has a PrometheusRule.",
)
@click.option("--to", metavar="DIR", type=click.Path(file_okay=False), help="Write the files there instead.")
@json_option
def schedule(  # one parameter for each option
    job_file: str,
    kind: str,
    at: str,
    timezone: str,
    address: str | None,
    image: str | None,
    alert: str | None,
    to: str | None,
    as_json: bool,
) -> None:
    """Print a manifest or a file that runs `nightly` for this job every day: one run at a time, with a deadline, a
    limited history, retries where they help (not after exit codes 2 and 4), and an alert where it does not end well.
    Nothing is installed. A time that summer time skips or doubles is refused."""
    from clipmill.jobs.scheduling.when import daily

    when = daily(at, timezone)
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)
    from clipmill.jobs.cluster.parcel import refuse_secrets
    from clipmill.jobs.scheduling.night import Night, caveats, files
    from clipmill.jobs.terminal.output import note, print_json

    if address:
        refuse_secrets(job)
    night = Night(
        kind=kind,
        job_file=job_file if "://" in job_file else str(Path(job_file).absolute()),
        table=job.table,
        when=when,
        address=address,
        image=image or "REGISTRY/clipmill:latest",
        folder=str(Path.cwd()),
        program=_program(),
        alert=alert,
    )
    made = files(night)
    for caveat in caveats(night):
        note(f"note: {caveat}")
    if to is not None:
        Path(to).mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (Path(to) / name).write_text(text, encoding="utf-8")
            note(f"wrote {Path(to) / name}")
    if as_json:
        print_json(made)
    elif to is None:
        _print(made)


def _print(made: dict[str, str]) -> None:
    """A line with its name before each file, where there are several."""
    for name, text in made.items():
        click.echo((f"# --- {name}\n" if len(made) > 1 else "") + text, nl=False)


def _program() -> tuple[str, ...]:
    """The words that start this very clipmill, for a scheduler with a PATH of its own."""
    called = Path(sys.argv[0])
    if called.stem == "clipmill":
        return (str(called.absolute()),)
    return (sys.executable, "-m", "clipmill")


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
    help="What to run there.",
)
@follow_option
@click.option("--publish", is_flag=True, help="Passed on to `embed`.")
@click.option("--model", metavar="NAME", help="Passed on to `reembed`, which runs on the job's table.")
@click.option("--pretrained", metavar="TAG", help="Passed on to `reembed`.")
@click.option(
    "--wait-s",
    type=click.FloatRange(min=1),
    help="For a worker; then exit code 5. Default: the job's workers.wait_s.",
)
@json_option
def submit(
    job_file: str,
    address: str,
    command: str,
    follow: bool,
    publish: bool,
    model: str | None,
    pretrained: str | None,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Send this very code and the job file to the cluster, check on a worker that both fit together, and run it there.

    Credentials are not sent: nodes have their own. The same again while it runs follows the first. Ctrl-C leaves the
    run alone and says how to come back; `clipmill stop` ends it.
    """
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)
    if publish and command != "embed":
        raise click.UsageError(f"--publish goes with --command embed, not {command}")
    if bool(model) != (command == "reembed") or (pretrained and not model):
        raise click.UsageError("--command reembed needs --model, and --model and --pretrained go with it alone")
    from clipmill.jobs.cluster.parcel import JOB_FILE, reembed_words, refuse_secrets

    if command == "nightly":
        refuse_secrets(job)
    from clipmill.jobs.cluster.dashboard import connect
    from clipmill.jobs.cluster.submit import Order
    from clipmill.jobs.cluster.submit import submit as send
    from clipmill.jobs.terminal.output import note, print_record

    words = [command, JOB_FILE, *(["--publish"] if publish else [])]
    if model:
        words = reembed_words(job, model, pretrained)
    order = Order(
        job=job,
        address=address,
        command=command,
        words=[*words, "--address", "auto"],
        wait_s=wait_s or job.workers.wait_s,
    )
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
    from clipmill.jobs.terminal.output import note, print_record, printable

    def show(text: str) -> None:
        sys.stderr.write(printable(text))
        sys.stderr.flush()

    try:
        ended = follow(client, address, job_id, show)
    except KeyboardInterrupt:
        back, end = (_again(word, job_id, address) for word in ("jobs", "stop"))
        note(f"left {job_id}, which goes on")
        note(f"hint: to come back: {back} --follow; to end it: {end}")
        sys.exit(EXIT_INTERRUPTED)
    print_record(ended, as_json=as_json)
    sys.exit(exit_code(ended))


def _again(command: str, job_id: str, address: str) -> str:
    from clipmill.jobs.terminal.output import program

    return shlex.join([program(), command, job_id, "--address", address])


commands: list[click.Command] = [submit, list_jobs, stop, schedule]
