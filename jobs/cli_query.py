"""The commands for those who query: index and its kin. Light imports only; each command loads what it needs."""

from typing import Any

import click

from jobs.cli_options import json_option, storage_from, table_options


@click.command(short_help="Build or update the indices that make queries fast.")
@table_options
@click.option(
    "--kind",
    type=click.Choice(["auto", "none", "ivf_rq", "hnsw_sq"]),
    default="auto",
    show_default=True,
    help="auto: none for a small table, else IVF_RQ.",
)
@click.option("--column", "columns", multiple=True, default=("vector",), show_default=True, help="Vector columns.")
@click.option("--memory", default="4GB", show_default=True, metavar="SIZE", help="What a query may keep of the index.")
@click.option("--rebuild", is_flag=True, help="Train and build everything anew.")
@json_option
def index(table: str, endpoint_url: str | None, region: str | None, memory: str, as_json: bool, **options: Any) -> None:
    """Build what is missing, add new rows to what is there, and measure recall@10 against brute force."""
    from jobs.index import IndexOptions, build_index
    from jobs.output import note, print_record
    from schemas.config import parse_quantity
    from schemas.errors import UserError

    try:
        memory_bytes = int(parse_quantity(memory))
    except ValueError as error:
        raise UserError(str(error), "write --memory 4GB") from None
    report = build_index(
        table, IndexOptions(memory_bytes=memory_bytes, **options), storage_from(endpoint_url, region), tell=note
    )
    print_record(report, as_json=as_json)


commands: list[click.Command] = [index]
