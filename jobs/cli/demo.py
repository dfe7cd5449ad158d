"""The command for a first look."""

import click

from clipmill.jobs.cli.options import json_option


@click.command(short_help="See it work: sample bucket, embed, index, search, page of pictures.")
@click.option(
    "--out", default="demo-out", show_default=True, metavar="DIR", type=click.Path(), help="Where all of it is kept."
)
@click.option("--scenes", "number", default=2000, type=click.IntRange(100, 100_000), hidden=True)
@json_option
def demo(out: str, number: int, as_json: bool) -> None:
    """Draw 2,000 pictures into tars on a local S3 server and run the real job on them: embed, index, six searches,
    tags, rejects, and a page with the pictures found. No network, no GPU, no account; some minutes on two cores.

    Running it again takes up what is there.
    """
    from pathlib import Path

    from clipmill.schemas.installed import require

    require("the demo", "moto", "flask", "ray")  # before anything is drawn
    from clipmill.jobs.demo.run import Options
    from clipmill.jobs.demo.run import demo as run_demo
    from clipmill.jobs.terminal.output import print_json

    report = run_demo(Options(out=Path(out), number=number, quiet=as_json))
    if as_json:
        print_json(report)


commands: list[click.Command] = [demo]
