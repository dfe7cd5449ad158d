"""Arguments and sentences that several commands share. Light imports only: `clipmill --help` reads this."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from clipmill.schemas.job.config import Storage

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class AnyFile(click.Path):
    """A file that is there, or one in a store, which only reading it tells."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(exists=True, dir_okay=False, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


def without_secret(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The callback of options that take an address: what carries a credential is refused before anybody repeats it."""
    from clipmill.schemas.errors import UserError
    from clipmill.schemas.text.secrets import CHAIN_HINT, secret_in

    for text in value if isinstance(value, tuple) else (value,):
        if text and (what := secret_in(str(text))):
            raise UserError(f"{param.opts[0]} carries {what}", CHAIN_HINT)
    return value


def _of_ray(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Without the option, RAY_ADDRESS: Ray sets it for whatever it runs as a job, and a command that does not look at
    it starts a second Ray inside the head. With http:// it names a dashboard, for Ray's own `ray job`."""
    if value is None:
        value = os.environ.get("RAY_ADDRESS") or None
        value = None if value and value.startswith("http") else value
    found: str | None = without_secret(ctx, param, value)
    return found


def only_with(needed: str, *names: str, given: bool) -> None:
    """Refuse options that were typed and do nothing, because `needed` was not `given`."""
    context = click.get_current_context()
    for option in context.command.params:
        typed = context.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE
        if option.name in names and typed and not given:
            raise click.UsageError(f"{option.opts[0]} does nothing without {needed}")


class NewFile(click.Path):
    """A file that a command writes at its end: that its folder is there is told before the work. `stores`: or one in a
    store."""

    def __init__(self, *, stores: bool = False) -> None:
        super().__init__(dir_okay=False, writable=True)
        self._stores = stores

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._stores and "://" in str(value):
            return value
        path = super().convert(value, param, ctx)
        if not (folder := Path(os.fsdecode(path)).parent).is_dir():
            self.fail(f"there is no folder '{folder}'", param, ctx)
        return path


def _names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Each once, in their order."""
    found = tuple(dict.fromkeys(name.strip() for names in value for name in names.split(",") if name.strip()))
    if value and not found:
        raise click.BadParameter("it names nothing", ctx, param)
    return found


def names_option(*declared: str, default: tuple[str, ...] = (), what: str) -> Callable[[Command], Command]:
    """An option of names, given several times or with commas between them, that reaches the command as a tuple."""
    return click.option(
        *declared,
        metavar="NAME,…",
        multiple=True,
        callback=_names,
        help=what,
        default=default,
        show_default=bool(default),
    )


def file_option(
    *declared: str, what: str, metavar: str = "FILE", allow_dash: bool = False, **more: Any
) -> Callable[[Command], Command]:
    """An option that takes a file to read, here or in a store."""
    kind = AnyFile(allow_dash=allow_dash)
    return click.option(*declared, metavar=metavar, type=kind, callback=without_secret, help=what, **more)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
allow_source_option = click.option(
    "--allow-source",
    "allow_sources",
    metavar="URI",
    multiple=True,
    callback=without_secret,
    help="Also read images here: an object, a folder and all below it, or a glob. Default: only the table's source.",
)


def _log_format(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    from clipmill.jobs.terminal import lines

    lines.use(value)


log_format_option = click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    envvar="CLIPMILL_LOG_FORMAT",
    is_eager=True,  # also for what is wrong with the other options
    expose_value=False,
    callback=_log_format,
    help="Of stderr. json: an object a line, with run, unit, actor and node. Also: CLIPMILL_LOG_FORMAT.",
)
metrics_option = click.option(
    "--metrics",
    "metrics_file",
    metavar="FILE",
    type=NewFile(),
    help="Keep the run's figures in this file as OpenMetrics text, written anew every 10 s.",
)
address_option = click.option(
    "--address",
    metavar="ADDRESS",
    callback=_of_ray,
    help="The Ray cluster to run on (auto, host:port, ray://…). Default: RAY_ADDRESS, else this machine.",
)
where_option = click.option("--where", metavar="SQL", help='Only rows for which this holds, such as "width > 500".')
tag_option = click.option(
    "--tag", "all_tags", metavar="LABEL", multiple=True, help="Only rows with this tag; several: with all of them."
)
version_option = click.option(
    "--version", metavar="TAG|N", help="Of the table; default: live where there is one, else the newest."
)
vector_option = click.option(
    "--column",
    default="vector",
    show_default=True,
    metavar="NAME",
    help="Of vectors, such as caption_vector.",
)
pretrained_option = click.option("--pretrained", metavar="TAG|FILE", help="Its pretrained tag, or a checkpoint.")
float32_option = click.option(
    "--float32", is_flag=True, help="Vectors in float32, for programs that cannot take the table's float16."
)
job_argument = click.argument("job_file", metavar="JOB", type=click.Path())


def storage_options(command: Command) -> Command:
    """--endpoint-url and --region, for `storage_from`."""
    region = click.option("--region", metavar="NAME", help="Default: the standard AWS settings.")
    endpoint = click.option(
        "--endpoint-url",
        metavar="URL",
        callback=without_secret,
        help="An S3 server other than AWS. Default: AWS_ENDPOINT_URL.",
    )
    return endpoint(region(command))


def table_options(command: Command) -> Command:
    """TABLE, --endpoint-url and --region; the command takes `table`, `endpoint_url` and `region`."""
    return click.argument("table", metavar="TABLE")(storage_options(command))


def storage_from(endpoint_url: str | None, region: str | None) -> Storage:
    from pydantic import ValidationError

    from clipmill.schemas.errors import UserError
    from clipmill.schemas.job.config import Storage

    try:
        return Storage(endpoint_url=endpoint_url, region=region)
    except ValidationError as error:
        said = error.errors()[0]
        name = f"--{str(said['loc'][0]).replace('_', '-')}"
        raise UserError(
            f"{name} {said['msg'].removeprefix('Value error, ')}, not '{said['input']}'",
            "such as --endpoint-url http://localhost:9000; for AWS leave it out",
        ) from None


def version_from(text: str | None) -> int | str | None:
    """A version's number or a tag, as `open_table` takes it."""
    return int(text) if text and text.isdigit() else text
