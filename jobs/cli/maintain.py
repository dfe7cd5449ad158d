"""The commands that keep a table's files in order, and take rows out of it: maintain, delete."""

from datetime import timedelta

import click

from clipmill.jobs.cli.options import json_option, storage_from, table_options


@click.command(short_help="Merge fragments, extend indices, remove old versions and orphans.")
@table_options
@click.option(
    "--keep-days",
    default=7,
    show_default=True,
    type=click.IntRange(min=1),
    help="Versions that are older leave, unless a tag names them.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def maintain(
    table: str, endpoint_url: str | None, region: str | None, keep_days: int, dry_run: bool, as_json: bool
) -> None:
    """Keep the files of TABLE few and fresh: small fragments are merged, new rows enter the indices, old versions leave
    unless a tag names them, and so do files of killed runs that no version names and that are older than a day.
    `clipmill embed` does the most urgent of it by itself. Safe beside readers; exit code 5 while another run holds the
    table."""
    from clipmill.jobs.terminal.output import note, print_record
    from clipmill.jobs.upkeep.maintain import maintain_table

    storage = storage_from(endpoint_url, region)
    done = maintain_table(table, storage, say=note, keep=timedelta(days=keep_days), dry_run=dry_run)
    print_record(done, as_json=as_json)


commands: list[click.Command] = [maintain]
