"""The command that makes a scheduler run jobs."""

import sys
from pathlib import Path

import click

from clipmill.jobs.cli.options import job_argument, json_option, without_secret

# Of `jobs.scheduling.night.KINDS`, which `--help` does not load.
_KINDS = ("cronjob", "crontab", "systemd", "airflow", "dagster", "argo", "raycronjob")


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
    from clipmill.jobs.cluster.parcel import named_on_disk, refuse_secrets
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
        on_disk=tuple(named_on_disk(job, sent=True)),
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


commands: list[click.Command] = [schedule]
