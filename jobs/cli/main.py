"""The command `clipmill`: parse, call one function, print.

Every command imports what it needs inside itself, so that `clipmill --help` loads no torch, ray or lance.
Exit codes: 0 done; 2 the user's mistake; 3 finished, but something is missing or wrong and is named; 4 a gate refused;
5 somebody else holds the table: later; 130 interrupted; 1 anything else.
"""

import errno
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

import click

from clipmill.jobs.cli.options import EXIT_INTERRUPTED
from clipmill.jobs.terminal import lines
from clipmill.jobs.terminal.output import note
from clipmill.jobs.terminal.signals import end_as_ctrl_c_does
from clipmill.schemas.errors import EXIT_OK, EXIT_OTHER, EXIT_USER, ClipmillError, UserError
from clipmill.workers.store import lance_log

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, *_NO_ROOM}

# Each has a list `commands`; importing them costs nothing but click.
COMMAND_MODULES = (
    "demo",
    "job",
    "vectors",
    "night",
    "schedule",
    "submit",
    "table",
    "query",
    "judge",
    "select",
    "push",
    "maintain",
    "reembed",
    "report",
)

# What `--help` shows, in this order: each command stands where somebody who wants to do that looks for it.
SECTIONS = {
    "Make a table": ("demo", "models", "plan", "embed", "import"),
    "Search and look": ("search", "serve", "tags", "status", "rejects", "report", "verify"),
    "Every night": ("nightly", "schedule", "watch", "publish", "rollback"),
    "Keep it": ("index", "maintain", "delete", "retag"),
    "Use it": ("export", "push", "dedup", "select", "evaluate", "score", "train-head"),
    "Another model": ("reembed", "promote", "drop"),
    "Jobs on a Ray cluster": ("submit", "jobs", "stop"),
}


class _Group(click.Group):
    """Shows the commands by what they are for, and knows near misses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                room = formatter.width - 6 - width
                formatter.write_dl([(n.ljust(width), self.commands[n].get_short_help_str(room)) for n in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            raise _UnknownCommand(name, list(self.commands))
        if command is not None and (option := _given_nothing(command, args[1:])):
            raise _GivenNothing(option)
        return super().resolve_command(ctx, args)


class _UnknownCommand(click.UsageError):
    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no command '{name}'")
        import difflib  # two milliseconds of every command otherwise

        near = difflib.get_close_matches(name, known, n=1)
        self.hint = f"did you mean `clipmill {near[0]}`?" if near else "`clipmill --help` lists the commands"


def _given_nothing(command: click.Command, args: Sequence[str]) -> str:
    """The first option whose value is empty. A script whose variable is empty means another command than it types:
    `--near ""` would be of every row."""
    options = (o for o in command.params if isinstance(o, click.Option) and not o.is_flag)
    takes_one = {name for option in options for name in option.opts}
    for before, word in pairwise(("", *args)):
        if word == "--":
            break
        if word == "" and before in takes_one:
            return before
        if word.endswith("=") and word[:-1] in takes_one:
            return word[:-1]
    return ""


class _GivenNothing(click.UsageError):
    hint = "leave it out, or give it a value; in a script, is a variable empty?"

    def __init__(self, option: str) -> None:
        super().__init__(f"{option} was given nothing")


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from clipmill.schemas.installed import version

        click.echo(f"clipmill {version()}")
        ctx.exit()


def build() -> click.Group:
    """The whole command line, without running anything."""

    @click.group(name="clipmill", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("-v", "--verbose", is_flag=True, help="More of what happens, on stderr.")
    @click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print it.")
    def group(verbose: bool) -> None:
        """A bucket of images and captions becomes a LanceDB table of CLIP embeddings and zero-shot tags.

        TABLE is <database uri>/<name>, local or s3://…; JOB is a YAML file (docs/job-file.md).
        Data goes to stdout, everything else to stderr.
        """
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.INFO if verbose else logging.WARNING,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )

    modules = [importlib.import_module(f"clipmill.jobs.cli.{module}") for module in COMMAND_MODULES]
    known = {command.name: command for module in modules for command in module.commands}
    for names in SECTIONS.values():
        for name in names:
            group.add_command(known[name])
    return group


def run(argv: Sequence[str]) -> int:
    """Run one command line in this process and return its exit code; only a defect prints a traceback."""
    lance_log.quiet()  # here for the processes that this one starts
    lines.use("text")  # until an option says otherwise
    group = build()
    try:
        result = group.main(args=list(argv), prog_name="clipmill", standalone_mode=False)
        # Outside standalone mode click returns the code of ctx.exit() instead of raising it.
        return result if isinstance(result, int) else EXIT_OK
    except ClipmillError as error:
        return _told(error, group, argv)
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())  # `clipmill` alone: the help as it is, not squeezed into an error's line
        return EXIT_USER
    except click.UsageError as error:
        return _fail(*_usage(error), EXIT_USER)
    except click.ClickException as error:
        return _fail(error.format_message(), "", EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", "run the same command again to go on from there", EXIT_INTERRUPTED)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_OTHER if error.code else EXIT_OK
    except BrokenPipeError:
        # The reader of our output is gone (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OTHER
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person
        from clipmill.jobs.table.errors import no_reading, no_room
        from clipmill.schemas.installed import not_installed
        from clipmill.workers.store.errors import of_table

        missing = not_installed(error) if isinstance(error, ModuleNotFoundError) else None
        refused = missing or _not_writable(error) or no_room(error, "the table") or no_reading(error, "the table")
        told = refused or of_table(error, "the table")  # a read of lance's on the way
        if isinstance(told, ClipmillError):
            return _told(told, group, argv)
        note(traceback.format_exc())  # a defect, with everything known of it
        return EXIT_OTHER


def _not_writable(error: Exception) -> UserError | None:
    """What this machine does not take: no permission, read-only, no room. A full disk is told without the file."""
    number, name = getattr(error, "errno", None), getattr(error, "filename", None)
    if not isinstance(error, OSError) or number is None or number not in (_NOT_WRITABLE if name else _NO_ROOM):
        return None
    said = f"{os.fsdecode(name)}: {os.strerror(number)}" if name else os.strerror(number).lower()
    return UserError(said, "name another place, or mend this one")


# What a job file says of its store, as the options of a command that has none.
_OPTIONS = {
    "storage.endpoint_url": "--endpoint-url",
    "storage.region": "--region",
    "; to read a public bucket: storage.anonymous: true": "",
}


def _told(error: ClipmillError, group: click.Group, argv: Sequence[str]) -> int:
    """In the words of the command that was typed."""
    message, hint = error.message, error.hint
    command = group.commands.get(next((word for word in argv if not word.startswith("-")), ""))
    if command is not None and "endpoint_url" in {param.name for param in command.params}:
        for field, option in _OPTIONS.items():
            message, hint = message.replace(field, option), hint.replace(field, option)
    return _fail(message, hint, error.exit_code)


def _usage(error: click.UsageError) -> tuple[str, str]:
    """Click's sentences in the form of ours."""
    text = " ".join(error.format_message().split())
    text = (text[:1].lower() + text[1:]).rstrip(".")
    where = error.ctx.command_path if error.ctx else "clipmill"
    hint = f"`{where} --help` shows how it is used"
    takes_words = error.ctx is not None and any(param.name == "text" for param in error.ctx.command.params)
    if takes_words and "unexpected extra argument" in text:
        hint = f'words that belong together take quotes, such as "a red shoe"; {hint}'
    return text, getattr(error, "hint", hint)


def _fail(message: str, hint: str, code: int) -> int:
    """`error:` and `hint:`, a line each."""
    for word, text in (("error", message), ("hint", hint)):
        if text:
            note(f"{word}: {' '.join(text.split())}")
    sys.stderr.flush()
    return code


def main() -> NoReturn:
    """Entry point of the console script."""
    end_as_ctrl_c_does()
    code = run(sys.argv[1:])
    gc.freeze()  # or Python looks for cycles among all that was imported, several times, before it ends
    sys.exit(code)


if __name__ == "__main__":
    main()
