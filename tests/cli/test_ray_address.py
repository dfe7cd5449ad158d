"""Inside a Ray job, RAY_ADDRESS says where its cluster is."""

import click
import pytest
from click.testing import CliRunner

from clipmill.jobs.cli.options import address_option


@click.command()
@address_option
def shown(address: str | None) -> None:
    click.echo(str(address))


@pytest.mark.parametrize(
    ("words", "variable", "address"),
    [
        ([], "10.0.0.1:6379", "10.0.0.1:6379"),
        (["--address", "auto"], "10.0.0.1:6379", "auto"),
        ([], "http://10.0.0.1:8265", "None"),
        ([], "", "None"),
    ],
)
def test_the_option_then_the_variable_then_this_machine(words: list[str], variable: str, address: str) -> None:
    """A dashboard's URL is for `ray job`, and no cluster to join."""
    said = CliRunner().invoke(shown, words, env={"RAY_ADDRESS": variable})
    assert said.output.strip() == address
