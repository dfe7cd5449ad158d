"""The command that publishes a table as a data set: push. Light imports only."""

from typing import Any

import click

from clipmill.jobs.cli.options import (
    float32_option,
    json_option,
    names_option,
    only_with,
    storage_from,
    table_options,
    version_from,
    version_option,
    where_option,
    without_secret,
)
from clipmill.schemas.text.words import counted


@click.command(short_help="Publish a version as a data set: on the Hub, or a folder.")
@table_options
@click.argument("to", metavar="hf://OWNER/NAME|DIR", callback=without_secret)
@where_option
@version_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "lance"]),
    default="parquet",
    show_default=True,
    help="parquet: read by everything. lance: searched where it lies, by readers that have pylance.",
)
@names_option("--column", "columns", what="Default: all but thumbnails.")
@float32_option
@click.option(
    "--shard-rows", default=100_000, show_default=True, type=click.IntRange(min=1), help="Rows of a data file."
)
@click.option(
    "--license", metavar="NAME", help="Of the data set, as the Hub names it; needed without a license column."
)
@click.option("--license-column", metavar="NAME", help="Where rows say their own. Default: license, if it is there.")
@click.option("--root", metavar="FOLDER", callback=without_secret, help="What addresses become relative to.")
@click.option("--base", default="", metavar="URI", callback=without_secret, help="What stands in the place of --root.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--revision", default="main", show_default=True, metavar="BRANCH", help="Of the repository.")
@click.option("--message", default="", metavar="TEXT", help="Of the commit.")
@click.option("--dry-run", metavar="DIR", callback=without_secret, help="Write it into this new folder; no network.")
@json_option
def push(table: str, endpoint_url: str | None, region: str | None, to: str, as_json: bool, **options: Any) -> None:
    """Make a data set of a version of TABLE: rows with their vectors, rejects, and a card that says how they were made,
    under which licences, and how to load and search them. The pictures stay where they are. To the Hub it goes as one
    commit, with the token in HF_TOKEN or of `hf auth login`; a version that was pushed before is replaced.
    """
    from clipmill.jobs.pushing.push import push as publish
    from clipmill.jobs.pushing.request import PushOptions, parse_dry_run, parse_target
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import note, print_record

    repo, folder = parse_target(to)
    only_with("hf://OWNER/NAME", "private", "revision", "message", given=bool(repo))
    version, dry_run = version_from(options.pop("version")), parse_dry_run(options.pop("dry_run"))
    options["columns"] = options["columns"] or None
    asked = PushOptions(repo=repo, folder=dry_run or folder, **options)
    opened = open_table(table, version=version, storage=storage_from(endpoint_url, region))
    report = publish(opened, asked, tell=note)
    print_record(report, as_json=as_json)
    if report.masked:
        note(f"in {counted(report.masked, 'value')} a credential was written over by ***")
    if repo and not dry_run and not report.commit:
        note(f"{report.to} had all of it already: nothing was changed")


commands: list[click.Command] = [push]
