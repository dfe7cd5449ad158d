"""Arguments that several commands share. Light imports only: `clipmill --help` reads this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from schemas.config import Storage

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
allow_source_option = click.option(
    "--allow-source",
    "allow_sources",
    metavar="URI",
    multiple=True,
    help="Also read images here: an object, a folder and all below it, or a glob. Default: only the table's source.",
)
address_option = click.option(
    "--address", metavar="ADDRESS", help="The Ray cluster to run on (auto, host:port, ray://…). Default: this machine."
)
job_argument = click.argument("job_file", metavar="JOB", type=click.Path())


def table_options(command: Command) -> Command:
    """TABLE, --endpoint-url and --region; the command takes `table`, `endpoint_url` and `region`."""
    for decorate in (
        click.option("--region", metavar="NAME", help="Default: the standard AWS settings."),
        click.option("--endpoint-url", metavar="URL", help="An S3 server other than AWS. Default: AWS_ENDPOINT_URL."),
        click.argument("table", metavar="TABLE"),
    ):
        command = decorate(command)
    return command


def storage_from(endpoint_url: str | None, region: str | None) -> Storage:
    from schemas.config import Storage
    from schemas.errors import UserError
    from schemas.secrets import CHAIN_HINT, secret_in

    if endpoint_url and (what := secret_in(endpoint_url)):
        raise UserError(f"--endpoint-url carries {what}", CHAIN_HINT)
    return Storage(endpoint_url=endpoint_url, region=region)


def version_from(text: str | None) -> int | str | None:
    """A version's number or a tag, as `open_table` takes it."""
    return int(text) if text and text.isdigit() else text
