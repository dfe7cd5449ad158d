"""Prints docs/cli.md: what `--help` says, command by command. `make docs` writes it; a test compares."""

import click

from clipmill.jobs.cli.main import build

INTRO = """# Command line

Made from `--help` by `make docs`. Data goes to stdout, logs and progress to stderr. Exit codes: 0 done; 2 the user's
mistake (one sentence and a `hint:`); 3 finished, but something is missing or wrong and is named (units that failed,
damage that `verify` found); 4 a gate of `nightly`, `publish` or `promote` refused; 5 somebody else holds the table:
later; 130 interrupted; 1 anything else.
"""


def page() -> str:
    group = build()
    parts = [INTRO, _block(group, "clipmill", None)]
    parent = click.Context(group, info_name="clipmill")
    for name, command in group.commands.items():
        parts += [f"\n## clipmill {name}\n", _block(command, name, parent)]
    return "\n".join(parts)


def _block(command: click.Command, name: str, parent: click.Context | None) -> str:
    # A fixed width, so that the page does not depend on the terminal.
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    return f"```\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    click.echo(page(), nl=False)
