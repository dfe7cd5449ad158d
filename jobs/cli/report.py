"""The commands that tell a person what became of a table: report, watch. Light imports only."""

from typing import Any

import click

from clipmill.jobs.cli.options import NewFile, allow_source_option, json_option, storage_from, table_options
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted


@click.command(short_help="A table as one HTML page: rates, rejects, tags, a map, copies.")
@table_options
@click.option("--html", "html_file", metavar="FILE", type=NewFile(), help="Write the page: one file that stands alone.")
@click.option("--night", metavar="RUN", help="Of one night instead: the name of its run, or last.")
@click.option("--no-pictures", is_flag=True, help="Read no picture; the page has figures only.")
@allow_source_option
@json_option
def report(
    table: str, endpoint_url: str | None, region: str | None, html_file: str | None, as_json: bool, **options: Any
) -> None:
    """Runs with rate, limiting stage and cost; rejects with reasons and thumbnails; tags, scores, a map of the vectors;
    copies; versions and fingerprint of TABLE. With --night: what that night brought, its rate, gates and saved
    searches. Pictures are read from the table's own source."""
    from pathlib import Path

    from clipmill.jobs.reporting.page import render, write_page
    from clipmill.jobs.reporting.table import table_report
    from clipmill.jobs.terminal.output import note, print_record

    storage = storage_from(endpoint_url, region)
    pictures = html_file is not None and not options["no_pictures"]
    allow, night = options["allow_sources"], options["night"]
    found: Any
    if night:
        found = _night(table, storage, night, allow, pictures)
    else:
        found = table_report(table, storage, allow=allow, pictures=pictures)
    if html_file:
        write_page(Path(html_file), render("night.html.j2" if night else "table.html.j2", r=found))
        note(f"written: {html_file}")
    if as_json or not html_file:
        print_record(found, as_json=as_json)


def _night(table: str, storage: Any, run: str, allow: tuple[str, ...], pictures: bool) -> Any:
    """Of a night in the past, with the searches that the last job saves."""
    from clipmill.jobs.reporting.night import NightOptions, find_night, night_report
    from clipmill.jobs.reporting.watch import saved_searches
    from clipmill.jobs.table.tables import Tables
    from clipmill.schemas.errors import UserError

    tables = Tables.at(table, storage)
    try:
        saved = saved_searches(tables)
    except UserError:  # none
        saved = {}
    return night_report(tables, find_night(tables, run), NightOptions(allow=allow, watch=saved, pictures=pictures))


@click.command(short_help="What came that answers the job's saved searches.")
@table_options
@click.argument("name", required=False)
@click.option("--since", metavar="RUN|DATE", help="From this run on, or since this date (UTC).")
@json_option
def watch(
    table: str, endpoint_url: str | None, region: str | None, name: str | None, since: str | None, as_json: bool
) -> None:
    """Rows of TABLE that came and answer the searches under `nightly.watch` of its job file, or the one called NAME:
    best first, with their cosine as `score`. Of the version that readers see, and what it brought them: all runs since
    the version that they saw before, also of nights that did not end. Exit code 3 where a search could not be asked."""
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.reporting.arrivals import arrivals
    from clipmill.jobs.reporting.watch import saved_searches
    from clipmill.jobs.reporting.watch import watch as ask
    from clipmill.jobs.table.originals import is_local
    from clipmill.jobs.table.tables import Tables
    from clipmill.jobs.terminal.output import note, print_record, print_rows

    storage = storage_from(endpoint_url, region)
    tables = Tables.at(table, storage)
    opened = open_table(table, storage=storage)
    saved = saved_searches(tables, name)
    came = arrivals(tables, version=opened.version, since=since)
    found = ask(opened, tables, saved, came, own=is_local(tables))
    if as_json:
        print_record({"version": opened.version, "runs": came.runs, "searches": found}, as_json=True)
    else:
        hits = [
            {"search": one.name, "score": hit.score, "caption": hit.caption, "tags": hit.tags, "id": hit.id}
            for one in found
            for hit in one.hits
        ]
        print_rows(hits, as_json=False, columns=["search", "score", "caption", "tags", "id"], empty="")
        for one in found:
            more = f", {len(one.hits)} of them shown" if one.matched > len(one.hits) else ""
            note(f"{one.name}: {one.error or counted(one.matched, 'new row') + more}")
        units = counted(len(came.units), "unit")
        note(f"of {units} that came in {', '.join(came.runs) or 'no run'}, at version {opened.version}")
    if any(one.error for one in found):
        raise SystemExit(EXIT_UNITS_FAILED)


commands: list[click.Command] = [report, watch]
