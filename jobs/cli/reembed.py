"""The command that fills a set of another model beside the one in use."""

import shlex
import sys
from typing import Any

import click

from clipmill.jobs.cli.options import (
    EXIT_INTERRUPTED,
    address_option,
    allow_source_option,
    json_option,
    storage_from,
    table_options,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED


@click.command(short_help="Fill a set of another model's vectors beside the present one.")
@table_options
@click.option("--model", required=True, metavar="NAME", help="Any open_clip model, hf-hub:… or local-dir:….")
@click.option("--pretrained", metavar="TAG|FILE", help="A pretrained tag or a checkpoint.")
@click.option("--set", "slug", default="", metavar="SLUG", help="What the set is called; default: after the model.")
@click.option("--vocabulary", metavar="FILE", help="Of the table's tags, where it is not found by its name.")
@click.option("--again", is_flag=True, help="Also try rows that could not be filled before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read, and what it would cost.")
@allow_source_option
@address_option
@json_option
def reembed(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Compute vectors, caption vectors and tags of TABLE's rows with another model, into columns beside those in use
    (vector__SLUG and so on), from the pictures where the rows say they are. Readers, and runs that add, replace or
    delete rows, are not disturbed. Running it again goes on where it stopped. `clipmill status` shows how far it is;
    exit code 3 where rows are left, 5 while another fill is under way."""
    from clipmill.jobs.terminal.output import note, print_record, program
    from clipmill.jobs.upkeep.reembed import reembed as run_reembed
    from clipmill.jobs.upkeep.reembed_plan import ReembedOptions, plan_reembed
    from clipmill.schemas.config import Model

    storage = storage_from(endpoint_url, region)
    dry_run, model, pretrained = options.pop("dry_run"), options.pop("model"), options.pop("pretrained")
    asked = ReembedOptions(
        model=Model(name=model, pretrained=pretrained),
        resume=shlex.join([program(), *sys.argv[1:]]),
        allow_sources=options.pop("allow_sources"),
        **options,
    )
    if dry_run:
        print_record(plan_reembed(table, storage, asked), as_json=as_json)
        return
    done = run_reembed(table, storage, asked)
    print_record(done, as_json=as_json)
    if done.interrupted:
        note("error: interrupted; what was filled is in the table")
        note(f"hint: to go on from there: {asked.resume}")
        sys.exit(EXIT_INTERRUPTED)
    if done.left:
        why = done.failed_units[0]["reason"] if done.failed_units else "rows were added meanwhile"
        note(f"error: {done.left:,} rows are not filled: {why}")
        note(f"hint: to try them again: {asked.resume}")
        sys.exit(EXIT_UNITS_FAILED)


commands: list[click.Command] = [reembed]
