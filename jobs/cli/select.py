"""The command that makes data sets: select. Light imports only."""

from typing import Any

import click

from clipmill.jobs.cli.options import (
    allow_source_option,
    json_option,
    storage_from,
    table_options,
    version_from,
    version_option,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted


def _list(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Before TABLE and RECIPE are asked for."""
    if value and not ctx.resilient_parsing:
        from clipmill.jobs.selecting.recipe import load_recipe, shipped
        from clipmill.jobs.terminal.output import print_rows

        rows = [{"name": name, "what it selects": load_recipe(name).description} for name in shipped()]
        print_rows(rows, as_json=False)
        ctx.exit()


def _show(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        from clipmill.jobs.selecting.recipe import load_recipe

        click.echo(load_recipe(value).text, nl=False)
        ctx.exit()


@click.command(short_help="The rows that a recipe leaves, as a list of ids with a card.")
@table_options
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--out", metavar="FILE", callback=without_secret, help="The ids: .parquet or .csv with uri and scores, or .txt."
)
@click.option("--card", metavar="FILE.md", callback=without_secret, help="What was selected, and how; .json beside it.")
@click.option("--tag", metavar="NAME", help="Name the version it was made from; maintenance then keeps it.")
@version_option
@click.option("--dry-run", is_flag=True, help="Count, and write nothing.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Recipes that come along."
)
@click.option("--show", metavar="NAME", is_eager=True, expose_value=False, callback=_show, help="Print one of them.")
@allow_source_option
@json_option
def select(
    table: str, endpoint_url: str | None, region: str | None, recipe: str, as_json: bool, **options: Any
) -> None:
    """Go through the steps of RECIPE, a YAML file or the name of one that comes along, and write the ids of the rows of
    TABLE that are left: what `export --ids` takes. The same recipe on the same version gives the same ids. Exit code 3
    where none is left."""
    from dataclasses import replace

    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.selecting.card import check_card, write_card
    from clipmill.jobs.selecting.recipe import load_recipe
    from clipmill.jobs.selecting.select import select as run
    from clipmill.jobs.selecting.write import check_out, check_tag, set_tag, write_list
    from clipmill.jobs.terminal.output import note, print_record, print_rows
    from clipmill.schemas.errors import UserError

    out, card, tag, storage = options["out"], options["card"], options["tag"], storage_from(endpoint_url, region)
    if not options["dry_run"] and not out:
        raise UserError("nothing says where the ids go", "--out ids.parquet, or --dry-run to count only")
    asked = load_recipe(recipe)
    if out:
        check_out(out)
    if card:
        check_card(card)
    opened = open_table(table, version=version_from(options["version"]), storage=storage)
    if tag is not None:
        check_tag(opened, tag)
    found = run(opened, asked, allow_sources=options["allow_sources"], tell=note)
    if not options["dry_run"]:
        if tag:
            set_tag(opened, tag)
            found = replace(found, report=replace(found.report, tag=tag))
        write_list(found, out, storage)
        if card:
            write_card(found.report, card, storage)
    if as_json:
        print_record(found.report, as_json=True)
    else:
        print_rows(found.steps, as_json=False, columns=["before", "left", "after", "without_value", "least", "does"])
    written = "nothing was written" if options["dry_run"] else f"written to {out}"
    rows = counted(found.report.rows, "row")
    note(f"{found.report.selected:,} of {rows} of version {found.report.version}: {written}")
    if not found.report.selected:
        emptied = next((one for one in found.steps if not one.after), None)
        note("no row is left" + (f" after step {emptied.step}, {emptied.does}" if emptied else ""))
        raise SystemExit(EXIT_UNITS_FAILED)


commands: list[click.Command] = [select]
