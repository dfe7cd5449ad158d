"""The commands that tell a person what became of a table: report, watch. Light imports only."""

from typing import Any

import click

from clipmill.jobs.cli.options import NewFile, allow_source_option, json_option, storage_from, table_options


@click.command(short_help="A table as one HTML page: rates, rejects, tags, a map, copies.")
@table_options
@click.option("--html", "html_file", metavar="FILE", type=NewFile(), help="Write the page: one file that stands alone.")
@click.option("--no-pictures", is_flag=True, help="Read no picture; the page has figures only.")
@allow_source_option
@json_option
def report(
    table: str, endpoint_url: str | None, region: str | None, html_file: str | None, as_json: bool, **options: Any
) -> None:
    """Runs with rate, limiting stage and cost; rejects with reasons and thumbnails; tags, scores, a map of the vectors;
    copies; versions and fingerprint of TABLE. Pictures are read from the table's own source."""
    from pathlib import Path

    from clipmill.jobs.reporting.page import render, write_page
    from clipmill.jobs.reporting.table import table_report
    from clipmill.jobs.terminal.output import note, print_record

    storage = storage_from(endpoint_url, region)
    pictures = html_file is not None and not options["no_pictures"]
    found = table_report(table, storage, allow=options["allow_sources"], pictures=pictures)
    if html_file:
        write_page(Path(html_file), render("table.html.j2", r=found))
        note(f"written: {html_file}")
    if as_json or not html_file:
        print_record(found, as_json=as_json)


commands: list[click.Command] = [report]
